"""Reading the body of a request: within the memory budget, or into a staging file, and decoded at the end."""

from dataclasses import dataclass

from aiohttp import web

from gateway.intake.body import Body
from gateway.intake.budget import SMALL_POST_BYTES, MemoryBudget, Reservation
from gateway.intake.decoding import decoders_for
from gateway.intake.incoming import Incoming, arrived, invite
from gateway.intake.opening import BodyDecoder
from gateway.intake.refusals import too_large
from gateway.intake.staging import Staged, StagingArea
from gateway.intake.workers import Workers

_WRITE_BYTES = 1 << 20
"""What a body without room in memory reserves: what is collected before it is written to a staging file."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How bodies are read. Sizes are those on the wire, before decoding, where nothing else is said."""

    inline_max: int = 16 << 20
    """A larger body is staged, whatever memory is free."""
    body_max: int | None = None
    """A larger body is refused; by default none is."""
    progress_timeout: float = 10.0
    """Seconds in which a body must advance, see `gateway.intake.incoming`."""


class BodyReader:
    """Reads and decodes request bodies. For the event loop."""

    def __init__(
        self, limits: BodyLimits, budget: MemoryBudget, staging: StagingArea, workers: Workers, decoder: BodyDecoder
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._staging = staging
        self._workers = workers
        self._decoder = decoder

    async def read(self, request: web.BaseRequest) -> Body:
        """The decoded body, which the caller must release.

        What the headers and the state of the gateway speak against is refused before the client is told to send.
        Raises `Refusal`, `ClientGone`, `BudgetExhausted`, `SpoolFull`, `OSError`.
        """
        encoding = request.headers.get("Content-Encoding")
        decoders = decoders_for(encoding) if encoding else ()
        body = await self._receive(request)
        if not decoders:
            return body
        try:
            body.become(await self._decoder.decode(body.data, decoders))
        except BaseException:
            body.release()
            raise
        return body

    async def _receive(self, request: web.BaseRequest) -> Body:
        length = request.content_length
        limits = self._limits
        if length is None:
            return await self._receive_unknown(request)
        if limits.body_max is not None and length > limits.body_max:
            raise too_large(limits.body_max)
        if length <= limits.inline_max and length <= self._budget.largest:
            return await self._receive_known(request, length)
        return await self._receive_giant(request, length)

    async def _receive_known(self, request: web.BaseRequest, length: int) -> Body:
        reservation = self._budget.try_reserve(length) or await self._budget.reserve(length)
        try:
            await invite(request)
            data: bytes | memoryview | None = arrived(request)
            if data is None:
                data = memoryview(bytearray(length))
                await self._incoming(request, reservation).rest(data)
        except BaseException:
            reservation.release()
            raise
        return Body(data, reservation, None if length <= SMALL_POST_BYTES else self._staging.begin())

    async def _receive_giant(self, request: web.BaseRequest, length: int) -> Body:
        """A body that goes into a staging file from its first byte."""
        staged = self._staging.begin()
        staged.claim(length)
        try:
            with await self._budget.reserve(min(_WRITE_BYTES, self._budget.largest)) as reservation:
                await invite(request)
                incoming = self._incoming(request, reservation)
                return await self._stage(incoming, bytearray(), staged, reservation)
        except BaseException:
            staged.discard()
            raise

    async def _receive_unknown(self, request: web.BaseRequest) -> Body:
        """A body without a length starts in the memory of a small post and moves on when it outgrows that."""
        with await self._budget.reserve(SMALL_POST_BYTES) as reservation:
            await invite(request)
            incoming = self._incoming(request, reservation)
            data = bytearray()
            while piece := await incoming.next():
                data += piece
                self._check_total(len(data))
                if not self._have_room(reservation, len(data)):
                    reservation.try_grow(min(_WRITE_BYTES, self._budget.largest))
                    return await self._stage(incoming, data, self._staging.begin(), reservation)
            return Body(data, reservation.handed_over(), self._staging.begin())

    def _have_room(self, reservation: Reservation, size: int) -> bool:
        """Whether so much is reserved, or can be at once: twice as much each time, as the buffer grows."""
        if size <= reservation.size:
            return True
        return size <= self._limits.inline_max and reservation.try_grow(max(size, 2 * reservation.size))

    async def _stage(self, incoming: Incoming, data: bytearray, staged: Staged, reservation: Reservation) -> Body:
        """The body from `data`, which came already, to its end, in a staging file, with what is reserved in memory."""
        try:
            file = await self._workers.run(staged.file)
            while piece := await incoming.next():
                data += piece
                if len(data) >= reservation.size:
                    self._check_total(file.size + len(data))
                    await self._workers.run(file.write, data)
                    data = bytearray()
            await self._workers.run(file.write, data)
            return Body(await self._workers.run(file.map), None, staged, file)
        except BaseException:
            staged.discard()
            raise

    def _check_total(self, size: int) -> None:
        if self._limits.body_max is not None and size > self._limits.body_max:
            raise too_large(self._limits.body_max)

    def _incoming(self, request: web.BaseRequest, reservation: Reservation) -> Incoming:
        """The bytes of a body that memory is reserved for."""
        return Incoming(request, self._limits.progress_timeout, reservation.size)

"""Decoding a body that is complete: into memory if that is free, into a staging file if not, never waiting."""

from collections.abc import Callable

from gateway.intake.body import Body
from gateway.intake.budget import SMALL_POST_BYTES, MemoryBudget, Reservation
from gateway.intake.decoding import Decoder, DecodingLimits, Pieces, decode, expected_size
from gateway.intake.staging import StagedFile, StagingArea
from gateway.intake.workers import Workers

_INLINE_DECODED = 256 * 1024
"""What is decoded on the event loop at most: about 0.5 ms of gzip."""


class _NoRoom(Exception):
    """The decoded form is larger than what it said, and may not go to a file."""


class BodyDecoder:
    """Makes a decoded body from an encoded one. For the event loop.

    The sender's encoded bytes hold memory already, so the decoded form must not wait for any: what is free at
    that moment is used, and a file otherwise.
    """

    def __init__(
        self, limits: DecodingLimits, inline_max: int, budget: MemoryBudget, staging: StagingArea, workers: Workers
    ) -> None:
        self._limits = limits
        self._inline_max = inline_max
        self._budget = budget
        self._staging = staging
        self._workers = workers

    async def decode(self, data: bytes | bytearray | memoryview, decoders: tuple[Decoder, ...]) -> Body:
        """The decoded body, which the caller must release. `data` must not change meanwhile.

        Raises `Refusal` for data that is wrong or decodes to too much, `SpoolFull` and `OSError` from staging.
        """
        view = memoryview(data)
        expected = expected_size(view, decoders)
        if len(view) <= SMALL_POST_BYTES and expected <= _INLINE_DECODED:
            body = self._decode_inline(view, decoders, expected)
            if body is not None:
                return body
        reservation = self._try_reserve(expected)
        staged = self._staging.begin()
        try:
            memory = expected if reservation else 0
            decoded, file = await self._workers.run(
                lambda: _collect(decode(view, decoders, self._limits), memory, staged.file)
            )
        except BaseException:
            _release(reservation)
            staged.discard()
            raise
        if reservation is not None:
            reservation.shrink(len(decoded) if file is None else 0)
        return Body(decoded, reservation, staged, file)

    def _decode_inline(self, view: memoryview, decoders: tuple[Decoder, ...], expected: int) -> Body | None:
        """The decoded body, if it is as small as it says and memory is free for it; no thread is asked."""
        reservation = self._try_reserve(expected)
        if reservation is None:
            return None
        try:
            decoded, _ = _collect(decode(view, decoders, self._limits), expected, _no_file)
        except _NoRoom:
            reservation.release()
            return None
        except BaseException:
            reservation.release()
            raise
        reservation.shrink(len(decoded))
        return Body(decoded, reservation, self._staging.begin())

    def _try_reserve(self, size: int) -> Reservation | None:
        if size > self._inline_max or size > self._budget.largest:
            return None
        return self._budget.try_reserve(size)


def _collect(pieces: Pieces, memory: int, new_file: Callable[[], StagedFile]) -> tuple[memoryview, StagedFile | None]:
    """All pieces as one, and the file that this is a map of: up to `memory` bytes are in memory, more is not."""
    view = memoryview(bytearray(memory))
    filled = 0
    for piece in pieces:
        if filled + len(piece) > memory:
            file = new_file()
            return _spill(view[:filled], piece, pieces, file), file
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    return view[:filled], None


def _spill(head: memoryview, piece: bytes | memoryview, rest: Pieces, file: StagedFile) -> memoryview:
    file.write(head)
    file.write(piece)
    for following in rest:
        file.write(following)
    return file.map()


def _no_file() -> StagedFile:
    raise _NoRoom


def _release(reservation: Reservation | None) -> None:
    if reservation is not None:
        reservation.release()

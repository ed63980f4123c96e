"""Writes batches of messages into a store, and what no store takes into the topic of the dead.

A batch is done when each of its messages is durable in one of the two. A database that is down is waited for, as long
as it takes: the consumer pauses its partitions meanwhile, and nothing is committed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from msgspec.structs import replace

from gateway.worker.messages import Batch, ClaimFailed, Incoming, Ledger
from spool.payload.frames import encode
from spool.records import system_clock
from uploaders.base import Delivered, Outcome, Refused
from uploaders.kafka.messages import BadMessage, Message, dead_message
from uploaders.kafka.options import Topics
from uploaders.kafka.producer import MessageProducer
from uploaders.stores.options import FRAMES_AND_COLUMNS, DetailOptions, DetailsStored, SpansStored
from uploaders.stores.parts import Head, Part, PartKind, lag_seconds
from uploaders.stores.spans import SpansLeftOut, holds_telemetry, read_spans
from uploaders.stores.store import Detail, PartRefused, Span, Store, StoreError, StoreRefused, Written
from uploaders.stores.uploader import StoreObserver, write_in_halves

FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 5.0
"""Between two attempts at a database, or a broker, that does not take what it is given."""

if TYPE_CHECKING:
    from gateway.worker.claims import ClaimReader

_log = structlog.get_logger("callspool.work")
Result = TypeVar("Result")


class BatchWriter:
    """Writes into `store`, which is called `destination` in metrics. For the event loop."""

    def __init__(
        self, store: Store, destination: str, topics: Topics, dead: MessageProducer, ledger: Ledger,
        observer: StoreObserver, *, share: int = 100, at_once: int = 1, options: DetailOptions = FRAMES_AND_COLUMNS,
        claims: "ClaimReader | None" = None,
    ) -> None:  # fmt: skip
        """A batch of more than `share` parts is written by up to `at_once` transactions side by side.

        `claims` reads what notices refer to; without it they are kept as they are.
        """
        self.obstacle: str | None = None
        """Why nothing can be written at the moment; None while it can."""
        self._store = store
        self._destination = destination
        self._topics = topics
        self._dead = dead
        self._ledger = ledger
        self._observer = observer
        self._share = share
        self._at_once = at_once
        self._options = options
        self._claims = claims

    async def write(self, batch: Batch) -> None:
        """Return once every message of the batch is in the store or among the dead. May be cancelled at any time."""
        parts: list[Part] = []
        details: list[tuple[Incoming, Part]] = []
        read: dict[int, Incoming] = {}
        for message in batch.messages:
            part = message.part
            if isinstance(part, BadMessage):
                await self._bury(batch, message, str(part))
            elif part.kind is PartKind.DETAIL:
                details.append((message, part))
            else:
                parts.append(part)
                read[id(part)] = message
        async with asyncio.TaskGroup() as writing:
            for share in self._shares(parts):
                writing.create_task(self._write_share(batch, share, read))
        for message, part in details:
            written = await self._write_detail(part)
            if isinstance(written, PartRefused):
                await self._bury(batch, message, str(written))
            else:
                self._ledger.stored(batch, 1, sum(written.new.values()))

    def _shares(self, parts: Sequence[Part]) -> list[list[Part]]:
        """All of a call in one share: two transactions with parts of one call would wait for each other."""
        count = min(self._at_once, -(-len(parts) // self._share))
        shares: list[list[Part]] = [[] for _ in range(count)]
        for part in parts:
            shares[hash((part.project, part.call_id)) % count].append(part)
        return shares

    async def _write_share(self, batch: Batch, parts: Sequence[Part], read: Mapping[int, Incoming]) -> None:
        for some, result in await write_in_halves(parts, self._write_parts):
            if isinstance(result, PartRefused):
                self._observer.part_refused(self._destination, some[0].kind)
                await self._bury(batch, read[id(some[0])], str(result))
                continue
            # What came in one piece with its telemetry is its own detail.
            for part in some:
                if holds_telemetry(part.document):
                    await self._write_detail(part)
            notices = [part for part in some if part.kind is PartKind.REFERENCE]
            stored = len(some) - await self._claim(batch, notices, read)
            self._ledger.stored(batch, stored, min(stored, sum(result.new.values())))

    async def _write_parts(self, parts: Sequence[Part]) -> Written:
        started = time.perf_counter()
        written = await self._until_possible(lambda: self._store.write(parts))
        self._tell(parts, started, written)
        return written

    async def _write_detail(self, part: Part) -> Written | PartRefused:
        """A detail that fits into a message: one frame."""
        document = part.document
        return await self._write_frames(part, lambda: iter([encode(document)]), lambda: memoryview(document))

    async def _write_frames(
        self, part: Part, made: Callable[[], Iterator[bytes]], view: Callable[[], memoryview]
    ) -> Written | PartRefused:
        """A detail with the identity of `part`; its frames are made anew for each attempt."""
        part = replace(part, kind=PartKind.DETAIL, document=b"", head=Head())
        started = time.perf_counter()

        async def frames() -> AsyncIterator[bytes]:
            """They are made in a thread: those of 15 MB take 20 ms."""
            of_document = made()
            while (frame := await asyncio.to_thread(next, of_document, None)) is not None:
                yield frame

        def spans() -> Sequence[Span]:
            """Its spans."""
            try:
                if self._options.spans is SpansStored.NONE:
                    return ()
                return list(read_spans(view(), bodies=self._options.spans is SpansStored.FULL))
            except SpansLeftOut as error:
                _log.warning("spans_left_out", destination=self._destination, record=part.source_uid, reason=str(error))
                return ()

        def whole() -> bytes | None:
            """Where the store keeps details as JSON."""
            return bytes(view()) if self._options.details is DetailsStored.JSON else None

        try:
            written = await self._until_possible(
                lambda: self._store.write_detail(part, Detail(frames(), lambda: iter(spans()), whole))
            )
        except PartRefused as error:
            self._observer.part_refused(self._destination, PartKind.DETAIL)
            return error
        self._tell([part], started, written)
        return written

    async def _claim(self, batch: Batch, notices: Sequence[Part], read: Mapping[int, Incoming]) -> int:
        """Store what notices refer to as details; returns how many could not be, and are among the dead."""
        reader = self._claims
        if reader is None or not notices:
            return 0

        async def claim(part: Part) -> bool:
            """Whether its detail is stored."""
            try:
                claimed = await reader.read(part.document, part.project, part.call_id)
            except ClaimFailed as error:
                await self._bury(batch, read[id(part)], str(error))
                return False
            try:
                written = await self._write_frames(part, claimed.frames, claimed.view)
            finally:
                claimed.close()
            if isinstance(written, PartRefused):
                await self._bury(batch, read[id(part)], str(written))
            return not isinstance(written, PartRefused)

        return (await asyncio.gather(*map(claim, notices))).count(False)

    def _tell(self, parts: Sequence[Part], started: float, written: Written) -> None:
        """Tell the observer what was committed; the oldest of the parts says how far behind this is."""
        lag = lag_seconds(parts, system_clock())
        kinds = Counter(part.kind for part in parts)
        self._observer.parts_written(self._destination, kinds, time.perf_counter() - started, lag, written)

    async def _until_possible(self, write: Callable[[], Awaitable[Result]]) -> Result:
        """What the store answers; as long as it cannot, it is asked again. Raises `PartRefused`."""
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                result = await write()
            except PartRefused:
                raise
            except StoreError as error:
                self._hindered("store_unavailable", str(error), severe=isinstance(error, StoreRefused))
            else:
                self._free()
                return result
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    async def _bury(self, batch: Batch, message: Incoming, reason: str) -> None:
        """Put it among the dead, whatever that takes: as it came, or without its value where that is too large."""
        dead = dead_message(self._topics, message.key, message.value, message.headers, reason, message.origin)
        wait = FIRST_WAIT_SECONDS
        while not isinstance(outcome := await self._send(dead), Delivered):
            if isinstance(outcome, Refused) and outcome.too_large and dead.value:
                dead = Message(dead.topic, dead.key, b"", dead.headers)
                continue
            self._hindered("dead_topic_unavailable", outcome.reason, severe=isinstance(outcome, Refused))
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        self._free()
        self._ledger.buried(batch, 1)
        _log.error("message_dead", origin=message.origin, reason=reason)

    async def _send(self, message: Message) -> Outcome:
        (outcome,) = await self._dead.send([message])
        return outcome

    def _hindered(self, event: str, reason: str, *, severe: bool) -> None:
        """Log it when it begins, and when the reason changes."""
        if self.obstacle != reason:
            self.obstacle = reason
            (_log.error if severe else _log.warning)(event, destination=self._destination, reason=reason)

    def _free(self) -> None:
        if self.obstacle is not None:
            self.obstacle = None
            _log.info("store_available", destination=self._destination)

"""Delivers into a store: a whole, a core, an update or a notice as a part, a detail as frames with its spans.

Parts go in batches: the dispatcher gives what waits, and one transaction takes it. A batch of which the database
refuses a value is halved until the part is found that is at fault; the others are written, that one is refused.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog

from spool.payload.frames import decode, encode
from spool.records import REQUEST_FORMS, Delivery, system_clock
from uploaders.base import Delivered, Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.body import SpillingBuffer
from uploaders.document.encoding import decoded_document
from uploaders.document.render import BadLocation, raw_bytes_of, render
from uploaders.rate_limit import UNLIMITED, Bandwidth, paced
from uploaders.stores.options import FRAMES_AND_COLUMNS, DetailOptions, DetailsStored, SpansStored
from uploaders.stores.parts import (
    Head,
    Part,
    PartKind,
    key_text,
    kind_of,
    lag_seconds,
    read_head,
    shown_as_of,
    storable_text,
)
from uploaders.stores.spans import LARGEST_BYTES, SpansLeftOut, holds_telemetry, read_spans
from uploaders.stores.store import Detail, PartRefused, Span, Store, StoreError, StoreRefused, Written

log = structlog.get_logger(__name__)

FORMS: Final = REQUEST_FORMS
"""What a store takes. A reduced detail is for endpoints that take no full one."""
DOCUMENT_BYTES: Final = 64 << 20
"""The largest detail that is also kept in one piece: it is in memory meanwhile."""


class StoreObserver(Protocol):
    """Hears what is written, for metrics."""

    def parts_written(
        self, destination: str, parts: Mapping[PartKind, int], seconds: float, lag: float, written: Written
    ) -> None:
        """A transaction with so many parts of each kind was committed; those that are not `new` were duplicates.

        `lag` is how many seconds ago the oldest of them was accepted.
        """

    def part_refused(self, destination: str, kind: PartKind) -> None:
        """The database refused a value of this part."""


class StoreUploader:
    """Delivers into `store`. `scratch` is a directory for a detail while its spans are read; `completed` is called
    when calls became complete."""

    def __init__(
        self, destination: str, store: Store, payloads: PayloadReader, observer: StoreObserver, scratch: Path,
        batch_size: int, bandwidth: Bandwidth = UNLIMITED, *, options: DetailOptions = FRAMES_AND_COLUMNS,
        completed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.batch_size = batch_size
        self._destination = destination
        self._store = store
        self._payloads = payloads
        self._observer = observer
        self._scratch = scratch
        self._bandwidth = bandwidth
        self._options = options
        self._spans = options.spans is not SpansStored.NONE
        self._completed = completed

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Write one part, or one detail."""
        return (await self.deliver_many([delivery]))[0]

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Write parts in one transaction; details after that, each in its own."""
        outcomes: dict[int, Outcome] = {}
        parts: dict[int, Part] = {}
        for index, delivery in enumerate(deliveries):
            if delivery.form not in FORMS:
                outcomes[index] = Refused(f"a store takes no {delivery.form}")
            elif not _is_detail(delivery):
                part = await self._read(delivery)
                if isinstance(part, Part):
                    parts[index] = part
                else:
                    outcomes[index] = part
        outcomes.update(zip(parts, await self._write(list(parts.values())), strict=True))
        for index, delivery in enumerate(deliveries):
            written = isinstance(outcomes.get(index), Delivered)
            if index not in outcomes or (written and holds_telemetry(parts[index].document)):
                outcomes[index] = await self._write_detail(delivery)
        return [outcomes[index] for index in range(len(deliveries))]

    async def close(self) -> None:
        """Give back the connections."""
        await self._store.close()

    async def _read(self, delivery: Delivery) -> Part | Refused:
        """The part, with its document in memory: at most the size of a whole."""
        try:
            pieces = [piece async for piece in decoded_document(delivery, self._payloads.frames)]
        except BadLocation as error:
            return Refused(str(error))
        return _part_of(delivery, b"".join(pieces))

    async def _write(self, parts: Sequence[Part]) -> list[Outcome]:
        """The outcome for each part of a batch."""
        try:
            results = await write_in_halves(parts, self._write_together)
        except StoreError as error:
            return [_failed(error)] * len(parts)
        outcomes: list[Outcome] = []
        for some, result in results:
            if isinstance(result, PartRefused):
                outcomes.append(self._refused(some[0].kind, result))
            else:
                outcomes += [Delivered()] * len(some)
        return outcomes

    async def _write_together(self, parts: Sequence[Part]) -> Written:
        started = time.perf_counter()
        written = await self._store.write(parts)
        kinds = Counter(part.kind for part in parts)
        self._tell(kinds, started, parts, written)
        if written.completed or written.late:
            self._completed()
        return written

    async def _write_detail(self, delivery: Delivery) -> Outcome:
        """A detail, or the frames of a whole that holds telemetry: it is its own detail."""
        started = time.perf_counter()
        part = _part_of(delivery, b"", PartKind.DETAIL)
        copy = SpillingBuffer(self._scratch)
        size = raw_bytes_of(delivery.record, render(delivery))
        reads = self._spans and size <= LARGEST_BYTES
        keeps = self._options.details is DetailsStored.JSON and self._has_room(delivery, size)
        try:
            frames = self._frames(delivery, copy if reads or keeps else None)
            detail = Detail(
                frames,
                lambda: self._read_spans(delivery, copy, skip=not reads),
                lambda: bytes(copy.view()) if keeps else None,
            )
            written = await self._store.write_detail(part, detail)
        except PartRefused as error:
            return self._refused(PartKind.DETAIL, error)
        except StoreError as error:
            return _failed(error)
        finally:
            copy.close()
        self._tell({PartKind.DETAIL: 1}, started, (part,), written)
        return Delivered()

    def _tell(self, kinds: Mapping[PartKind, int], started: float, parts: Sequence[Part], written: Written) -> None:
        lag = lag_seconds(parts, system_clock())
        self._observer.parts_written(self._destination, kinds, time.perf_counter() - started, lag, written)

    async def _frames(self, delivery: Delivery, copy: SpillingBuffer | None) -> AsyncIterator[bytes]:
        """The document as frames; what they hold goes into `copy` too."""
        for piece in render(delivery):
            if isinstance(piece, bytes):
                if copy is not None:
                    copy.write(piece)
                yield encode(piece)
                continue
            async for frame in self._payloads.frames(delivery.record, piece):
                if copy is not None:
                    await asyncio.to_thread(_copy, frame, copy)
                async for _ in paced(frame, self._bandwidth.pace(delivery.lane)):
                    pass  # it goes in one piece, once the last byte of it may
                yield frame

    def _read_spans(self, delivery: Delivery, copy: SpillingBuffer, *, skip: bool) -> Iterator[Span]:
        try:
            if skip:
                raise SpansLeftOut("the detail is too large" if self._spans else "spans are switched off")
            return read_spans(copy.view(), bodies=self._options.spans is SpansStored.FULL)
        except SpansLeftOut as error:
            if self._spans:
                uid = delivery.record.uid
                log.warning("spans_left_out", destination=self._destination, record=uid, reason=str(error))
            return iter(())

    def _has_room(self, delivery: Delivery, size: int) -> bool:
        """Whether a detail of this size may be kept in one piece; says so if not."""
        if size > DOCUMENT_BYTES:
            uid = delivery.record.uid
            log.warning("document_left_out", destination=self._destination, record=uid, bytes=size)
        return size <= DOCUMENT_BYTES

    def _refused(self, kind: PartKind, error: PartRefused) -> Refused:
        self._observer.part_refused(self._destination, kind)
        return Refused(str(error))


def _is_detail(delivery: Delivery) -> bool:
    return kind_of(delivery.record.event, delivery.form) is PartKind.DETAIL


def _part_of(delivery: Delivery, document: bytes, kind: PartKind | None = None) -> Part:
    record = delivery.record
    kind = kind_of(record.event, delivery.form) if kind is None else kind
    head = Head() if kind is PartKind.DETAIL else read_head(document)
    return Part(
        project=key_text(record.tenant or ""),
        call_id=key_text(record.call_id),
        kind=kind,
        digest=record.digest,
        accepted_at=shown_as_of(kind, head, record.accepted_at),
        source_uid=record.uid,
        event=storable_text(record.event),
        document=document,
        head=head,
    )


def _copy(frame: bytes, copy: SpillingBuffer) -> None:
    copy.write(decode(frame))


def _failed(error: StoreError) -> Outcome:
    """The destination's matter, not the record's."""
    if isinstance(error, StoreRefused):
        return Refused(str(error), Scope.DESTINATION)
    return RetryLater(str(error), Scope.DESTINATION)


# Poison parts: a batch of which the database refuses a value is halved until the part at fault stands alone.

Result = TypeVar("Result")


async def write_in_halves(
    parts: Sequence[Part], write: Callable[[Sequence[Part]], Awaitable[Result]]
) -> list[tuple[Sequence[Part], Result | PartRefused]]:
    """What became of the parts, in their order: those that were written together, and each that was refused, alone.

    Raises what `write` raises besides `PartRefused`. Of n parts with one at fault 2 log2(n) batches are written.
    """
    if not parts:
        return []
    try:
        return [(parts, await write(parts))]
    except PartRefused as error:
        if len(parts) == 1:
            return [(parts, error)]
    middle = len(parts) // 2
    return [*await write_in_halves(parts[:middle], write), *await write_in_halves(parts[middle:], write)]

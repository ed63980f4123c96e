"""Dead letters as one archive, for a browser: the folder of `callspool dead export` as a zip file, a block at a time.

Unpacked, `callspool dead import` takes it. Nothing is removed from the spool, and no agent's key is in it.
"""

import io
from collections.abc import AsyncGenerator, AsyncIterator
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING
from zipfile import ZipFile, ZipInfo

import msgspec

from gateway.operations.schemas import (
    FORMAT,
    INDEX,
    LIMIT,
    DeadLetter,
    DeliveryEntry,
    Header,
    Select,
    document_name,
)
from gateway.operations.selection import BadSelection
from gateway.operations.service import DeliveryAdmin, UnknownDelivery
from gateway.operations.transfer import compressed
from gateway.trace import instant
from spool.errors import CorruptPayload
from spool.records import Form
from spool.stats import HELD_WITH_DEAD
from uploaders.document.render import BadLocation

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_LETTERS = 10_000
"""In one archive: its index is kept in memory until it is written, 0.5 KB for each. The command knows no limit."""
_LARGE_BYTES = 1 << 30
"""What may grow beyond 2 GiB needs the longer form of sizes."""
_encode = msgspec.json.Encoder().encode


class _Sink(io.RawIOBase):
    """What the archive writes, until it is sent."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        block = memoryview(data)
        self._written += block
        return block.nbytes

    def taken(self) -> bytes:
        block, self._written = bytes(self._written), bytearray()
        return block


async def archive_of(admin: DeliveryAdmin, select: Select, now: int) -> AsyncGenerator[bytes, None]:
    """The zip file, a block at a time; a document that cannot be read is told in the index, as by the command.

    Raises `BadSelection` before the first block where more than `MOST_LETTERS` are selected, and the spool's errors.
    """
    if await _is_more(admin, select):
        raise BadSelection(f"more than {MOST_LETTERS:,} dead letters are selected: `callspool dead export` takes them")
    sink, exported_at = _Sink(), instant(now)
    lines = [_encode(Header(format=FORMAT, exported_at=exported_at, callspool=version("callspool")))]
    packed: dict[str, tuple[str, int]] = {}
    with ZipFile(sink, "w") as archive:
        async for entry in _with_followers(admin, select):
            name = document_name(entry)
            if name in packed:
                lines.append(_encode(DeadLetter.of(entry, name, *packed[name], None)))
                continue
            try:
                delivery = await admin.document(entry.key)
                blocks = compressed(delivery, admin.payloads)
                block: bytes | None = await anext(blocks)
            except (UnknownDelivery, CorruptPayload, BadLocation) as error:
                lines.append(_encode(DeadLetter.of(entry, None, None, 0, f"The payload cannot be read: {error}.")))
                continue
            digest, size = sha256(), 0
            with archive.open(ZipInfo(name), "w", force_zip64=entry.bytes > _LARGE_BYTES) as file:
                while block is not None:
                    digest.update(block)
                    size += len(block)
                    file.write(block)
                    yield sink.taken()
                    block = await anext(blocks, None)
            packed[name] = (digest.hexdigest(), size)
            lines.append(_encode(DeadLetter.of(entry, name, *packed[name], None)))
        archive.writestr(ZipInfo(INDEX), b"\n".join([*lines, b""]))
    yield sink.taken()


async def _is_more(admin: DeliveryAdmin, select: Select) -> bool:
    seen = 0
    async for _ in _entries(admin, select):
        seen += 1
        if seen > MOST_LETTERS:
            return True
    return False


async def _entries(admin: DeliveryAdmin, select: Select) -> AsyncIterator[DeliveryEntry]:
    cursor: str | None = None
    while True:
        page = await admin.list(select, cursor, LIMIT)
        for entry in page.deliveries:
            yield entry
        cursor = page.cursor
        if cursor is None:
            return


async def _with_followers(admin: DeliveryAdmin, select: Select) -> AsyncIterator[DeliveryEntry]:
    """Each with the detail and the notice that are held with a dead core: a discard takes them along."""
    async for entry in _entries(admin, select):
        yield entry
        if entry.form == Form.CORE:
            held = Select(states=("held",), target=entry.record_id, destination=entry.destination)
            async for one in _entries(admin, held):
                if one.reason == HELD_WITH_DEAD:
                    yield one

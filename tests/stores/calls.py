"""Parts of calls for tests, and random histories of them."""

import hashlib
import json
import random
from collections.abc import AsyncIterator, Sequence

import zstandard

from uploaders.stores.completion import CompletionRule
from uploaders.stores.parts import Head, Part, PartKind, key_text, read_head
from uploaders.stores.store import Detail, Span

RULE = CompletionRule(timeout=300_000, open_timeout=3_600_000)
EVENTS = {
    PartKind.START: "call_started",
    PartKind.END: "call_ended",
    PartKind.CALL: "call_log",
    PartKind.UPDATE: "recording_ready",
    PartKind.DETAIL: "call_detail",
    PartKind.REFERENCE: "s3_reference",
}


def part_of(
    kind: PartKind,
    call_id: str = "c1",
    accepted_at: int = 1_000,
    project: str = "",
    document: bytes | None = None,
    **fields: object,
) -> Part:
    """A part whose document has these fields, or is this one."""
    text = document or json.dumps({"call_id": call_id, "wcall_event": EVENTS[kind], **fields}).encode()
    return Part(
        project=project,
        call_id=key_text(call_id),
        kind=kind,
        digest=hashlib.sha256(text).digest(),
        accepted_at=accepted_at,
        source_uid=f"uid-{accepted_at}",
        event=EVENTS[kind],
        document=b"" if kind is PartKind.DETAIL else text,
        head=Head() if kind is PartKind.DETAIL else read_head(text),
    )


def random_parts(chance: random.Random, calls: int, count: int) -> list[Part]:
    """So many parts of so many calls: of all kinds, with different ones of one kind, and some more than once."""
    parts: list[Part] = []
    for number in range(count):
        if parts and chance.random() < 0.2:
            parts.append(chance.choice(parts))
            continue
        kind = chance.choice(list(PartKind))
        started = chance.choice([None, 1_700_000_000, "2026-11-28T10:00:00Z"])
        call_id, accepted_at = f"call-{chance.randrange(calls)}", chance.randrange(1_000)
        some, agent = chance.randrange(4), f"agent-{number % 3}"
        parts.append(part_of(kind, call_id, accepted_at, agent_id=agent, call_started_at=started, number=some))
    return parts


async def frames_of(document: bytes, step: int = 1 << 20) -> AsyncIterator[bytes]:
    """The document as a spool has it: zstd frames that hold so much each."""
    compressor = zstandard.ZstdCompressor(level=1)
    for start in range(0, len(document), step):
        yield compressor.compress(document[start : start + step])


def detail_of(document: bytes, spans: Sequence[Span] = (), step: int = 1 << 20, *, whole: bool = False) -> Detail:
    """The content of a DETAIL part; to be kept in one piece too where that is asked for."""
    return Detail(frames_of(document, step), lambda: iter(spans), lambda: document if whole else None)


def span_of(seq: int, name: str | None = "span") -> Span:
    """A span with a name, and nothing else that may be missing."""
    return Span(seq, None, None, None, name, None, None, None, None, error=False)


async def numbered(frames: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """The frames with their numbers, from 0."""
    number = 0
    async for frame in frames:
        yield number, frame
        number += 1


async def document_of(frames: AsyncIterator[bytes]) -> bytes:
    """What frames hold."""
    return b"".join([zstandard.ZstdDecompressor().decompress(frame) async for frame in frames])

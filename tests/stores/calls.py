"""Parts of calls for tests, and random histories of them."""

import hashlib
import json
import random

from uploaders.stores.parts import Head, Part, PartKind, key_text, read_head

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
        fields = {"agent_id": f"agent-{number % 3}", "call_started_at": started, "number": chance.randrange(4)}
        parts.append(part_of(kind, f"call-{chance.randrange(calls)}", chance.randrange(1_000), **fields))
    return parts

"""Call logs that a check posts, and what is to be recognised of them when they arrive. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

LARGE_SPANS = 120
_NUMBERS = (1_758_000_000_123_456_789, 0.1234567890123456, 1.7976931348623157e308, -0.0)
"""What careless senders round or cut."""


@dataclass(frozen=True, slots=True)
class Post:
    """One call log of the check. `number` is its own among all, and rises within a call."""

    number: int
    call_id: str
    event: str
    body: bytes
    head: str
    """A hash of what the core, or the whole, must hold."""
    telemetry: str | None
    """A hash of what the detail must hold; None for a small call log, which has none."""


def make_post(number: int, call_id: str, event: str, large_bytes: int | None) -> Post:
    """A call log; with `large_bytes` one of about that size, to be sent in two phases."""
    head = {
        "call_id": call_id,
        "agent_id": "callspool-chaos",
        "wcall_event": event,
        "metadata": {"number": number, "numbers": _NUMBERS, "text": 'é "quoted" \\ \u2028'},
    }
    telemetry = _telemetry(number, large_bytes) if large_bytes is not None else None
    document = head if telemetry is None else head | {"telemetry_data": telemetry}
    return Post(
        number,
        call_id,
        event,
        msgspec.json.encode(document),
        hash_of(head["metadata"]),
        None if telemetry is None else hash_of(telemetry),
    )


def _telemetry(number: int, size: int) -> dict[str, Any]:
    """Spans with texts that compress about as those of real calls do, 6 to 1."""
    digits = size // LARGE_SPANS // 6
    spans = [
        {
            "name": "llm_request",
            "start_time_ns": _NUMBERS[0] + span,
            "attributes": hashlib.shake_256(b"%d %d" % (number, span)).hexdigest(digits) * 3,
        }
        for span in range(LARGE_SPANS)
    ]
    return {"session_traces": spans, "performance_metrics": {"total_spans": LARGE_SPANS}}


def hash_of(value: object) -> str:
    """The same for equal JSON values, however they are written."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()

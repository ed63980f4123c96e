"""Call logs that went wrong on their way: real ones, with values, names and bytes replaced."""

import json
import random
from pathlib import Path
from typing import Any

import zstandard

CALLS = Path(__file__).parents[3] / "shared" / "calls"
HOSTILE = (
    "NaN", "-Infinity", "1e999", "-0", "1.7976931348623157e308", "123456789012345678901234567890", r'"\ud800"',
    r'"\u0000"', '"' + "x" * 3000 + '"', "[" * 200 + "]" * 200, "{}", "[]", '{"a": 1, "a": 2}', "null", "true", '"£😀"',
)  # fmt: skip
"""JSON texts, and what Python and its friends take for it, that break what was not made for them."""
KNOWN = (
    "call_id", "agent_id", "wcall_event", "token", "telemetry_data", "transcript_with_metrics", "metadata", "data",
    "compressed", "session_traces", "span_summary", "s3_reference", "summary_metrics", "call_started_at",
)  # fmt: skip
_MARK = "@@{}@@"


def real_call_logs() -> list[dict[str, Any]]:
    """Those that a real agent wrote, where the folder with them lies beside the repository, and a made one."""
    read = [zstandard.ZstdDecompressor().decompressobj().decompress(one.read_bytes()) for one in CALLS.glob("*.zst")]
    made = {"call_id": "made", "telemetry_data": {"session_traces": [{"name": "s"}]}, "transcript_with_metrics": []}
    return [made, *(json.loads(text) for text in sorted(read, key=len)[:2])]


CORPUS = real_call_logs()


def mutant(seed: int) -> bytes:
    """A call log with some of its values and names replaced, and perhaps some bytes of the text."""
    chance = random.Random(seed)
    document = json.loads(json.dumps(chance.choice(CORPUS)))
    texts = [_replace(chance, document, number) for number in range(chance.randrange(5))]
    body = json.dumps(document)
    for number, text in enumerate(texts):
        body = body.replace(f'"{_MARK.format(number)}"', text)
    raw = bytearray(body.encode())
    for _ in range(chance.choice([0, 0, 0, 1, 3])):
        start = chance.randrange(len(raw))
        raw[start : start + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
    return bytes(raw)


def _replace(chance: random.Random, document: dict[str, Any], number: int) -> str:
    """Put a mark somewhere into the document; returns the text that is to stand there."""
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice([*keys, *(KNOWN if place is document else ())]) if keys else None
        if key is None:
            return "null"
        inside = place.get(key) if isinstance(place, dict) else place[key]
        if isinstance(inside, dict | list) and inside and chance.random() < 0.8:
            place = inside
            continue
        place[key] = _MARK.format(number)
        return chance.choice(HOSTILE)

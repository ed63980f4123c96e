"""Bodies of a costly shape: a unit again and again between a prefix and a suffix; and how they are sent."""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import zstandard

from tests.intake.bodies import envelope

MB = 1_000_000
TURNS = '{"call_id":"k","transcript_with_metrics":['
SPANS = '{"call_id":"k","telemetry_data":{"session_traces":['


class Shape(NamedTuple):
    """What such a body consists of."""

    prefix: str
    unit: str
    suffix: str
    megabytes: float

    def body(self, megabytes: float | None = None) -> bytes:
        """A body of this size. A `%d` in the unit is its number."""
        size = int((megabytes or self.megabytes) * MB)
        if "%d" not in self.unit:
            return (self.prefix + self.unit * (size // len(self.unit)) + self.suffix).encode()
        made, number, length = [self.prefix], 0, 0
        while length < size:
            made.append(self.unit.replace("%d", str(number)))
            length += len(made[-1])
            number += 1
        return ("".join(made) + self.suffix).encode()


SHAPES = {
    "one key again and again": Shape('{"call_id":"k",', '"a":1,', '"z":0}', 15.9),
    "top-level members": Shape('{"call_id":"k",', '"%d":1,', '"z":0}', 15.9),
    "turns that are numbers": Shape(TURNS, "1,", "1]}", 15.9),
    "turns that are lone surrogates": Shape(TURNS, '"\\ud800",', "1]}", 15.9),
    "turns with a wrong type": Shape(TURNS, '{"user_transcript":1},', "{}]}", 15.9),
    "empty turns": Shape(TURNS, "{},", "{}]}", 15.9),
    "spans that are numbers": Shape(SPANS, "1,", "1]}}", 15.9),
    "negative durations": Shape(SPANS, '{"duration_ms":-1},', "{}]}}", 15.9),
    "empty spans": Shape(SPANS, "{},", "{}]}}", 15.9),
    "escapes beside one surrogate": Shape(TURNS + '{"user_transcript":"\\ud800', "\\n", '"}]}', 15.9),
    "lists beside one surrogate": Shape('{"call_id":"k","s":"\\ud800","m":[', "[],", "[]]}", 15.0),
    "lists of one beside one surrogate": Shape('{"call_id":"k","s":"\\ud800","m":[', "[1],", "[]]}", 15.0),
    "no numbers": Shape('{"call_id":"k","m":[', "NaN,", "1]}", 15.0),
    "nested lists": Shape('{"call_id":"k","m":', "[[[[[[[[", "1", 4.0),
    "metadata of numbers": Shape('{"call_id":"k","metadata":[', "1,", "1]}", 15.9),
}
WORST = ("lists beside one surrogate", "one key again and again", "no numbers", "turns that are lone surrogates")
"""Those that cost the most."""


@dataclass(frozen=True)
class Way:
    """How a body is sent: packed, with which headers, to which path."""

    pack: Callable[[bytes], bytes] = bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/calls"


NOISE = b'"noise":"%b",' % Random(1).randbytes(16_384).hex().encode()
"""As much as is needed to compress 16 MB to less than 1000 to 1, above which no body is decoded."""


def _noisy(body: bytes) -> bytes:
    """The body with a member that hardly compresses."""
    return body[:1] + NOISE + body[1:]


def _as_detail(body: bytes) -> bytes:
    """The Phase 2 body of another gateway."""
    return b'{"update_type":"detailed_telemetry",' + body[1:]


WAYS = {
    "plain": Way(),
    "gzip": Way(lambda body: gzip.compress(_noisy(body), 6), {"Content-Encoding": "gzip"}),
    "gzip twice": Way(lambda body: gzip.compress(gzip.compress(_noisy(body), 6)), {"Content-Encoding": "gzip, gzip"}),
    "zstd": Way(lambda body: zstandard.ZstdCompressor().compress(_noisy(body)), {"Content-Encoding": "zstd"}),
    "envelope of a page": Way(envelope, {"Content-Type": "text/plain"}, "/dev/send-call-log"),
    "line of a batch": Way(lambda body: body + b"\n" + json.dumps({"call_id": "b"}).encode(), {}, "/v1/calls/batch"),
    "detail": Way(_as_detail),
    "upload": Way(path=""),
}
"""An upload's path is asked for."""

"""Call logs as agents send them."""

import base64
import gzip
import json
import random
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import zstandard


def call_log(call_id: str = "call-1", *, size: int = 0, **fields: Any) -> bytes:
    """A call log of at least `size` bytes, whose filling compresses like text does."""
    document: dict[str, Any] = {"call_id": call_id, "agent_id": "agent-1", "wcall_event": "call_ended", **fields}
    if size:
        document["metadata"] = {"filling": filling(size)}
    return json.dumps(document).encode()


@lru_cache(maxsize=4)
def filling(size: int) -> str:
    """Words in no order: compresses about 3 to 1."""
    return random.Random(size).randbytes(4 * (size // 9 + 1)).hex(" ", 4)


@lru_cache(maxsize=4)
def incompressible(size: int) -> str:
    """Base64 of noise, which zstd makes only a quarter smaller."""
    return base64.b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()


def large_call_log(call_id: str = "call-1", *, spans: int = 600) -> bytes:
    """Above the raw threshold of 5 MiB: to be stored in two phases."""
    telemetry = {"session_traces": [{"name": "llm_request", "attributes": filling(10_000)} for _ in range(spans)]}
    return call_log(call_id, telemetry_data=telemetry, transcript_with_metrics=[{"turn_id": "1"}])


def envelope(document: bytes, **more: Any) -> bytes:
    """What the SDK makes of a call log above 10 KB."""
    data = base64.b64encode(gzip.compress(document, mtime=0)).decode()
    return json.dumps({"compressed": True, "data": data, **more}).encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor(write_content_size=True).compress,
}

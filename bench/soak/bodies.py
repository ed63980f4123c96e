"""The bodies that are posted: made once for each size, and given another call id for every post."""

import base64
import itertools
import json
import zlib

from bench.calllogs import make_call_log
from bench.requests import PLACEHOLDER, call_id

_VARIANTS = 2
_LARGE_BYTES = 1_000_000


class Bodies:
    """Call logs of any size; each one that is asked for has a call id of its own."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str, int], bytes] = {}
        self._numbers = itertools.count(1)

    def next_call(self) -> str:
        """A call id that no other post of this run has."""
        return call_id(next(self._numbers))

    def call_log(self, size_bytes: int, call: str, *, event: str = "call_ended") -> bytes:
        """A call log of this size about this call, one of two for sizes below 1 MB."""
        seed = 1 if size_bytes >= _LARGE_BYTES else 1 + int(call[-1]) % _VARIANTS
        key = (size_bytes, event, seed)
        if key not in self._made:
            self._made[key] = make_call_log(size_bytes, seed=seed, call_id=PLACEHOLDER.decode(), event=event)
        return self._made[key].replace(PLACEHOLDER, call.encode())


def envelope(body: bytes) -> bytes:
    """The envelope in which the SDK sends what is above 10 KB."""
    squeezed = zlib.compress(body, level=1, wbits=31)
    return json.dumps({"compressed": True, "data": base64.b64encode(squeezed).decode()}).encode()

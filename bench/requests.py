"""HTTP requests that are rendered once and re-addressed in place for every post."""

import re
from dataclasses import dataclass

PLACEHOLDER = b"bench-0000000000"
"""The call id in a body that is to be posted many times; its digits are overwritten by the number of the post."""

_PREFIX = len(b"bench-")


def call_id(number: int) -> str:
    """The call id that the post with this number carries."""
    return f"bench-{number:010d}"


@dataclass(slots=True)
class Template:
    """One connection's own copy of a request. `numbered` changes it, so it must not be shared."""

    request: bytearray
    positions: tuple[int, ...]
    body_bytes: int

    def numbered(self, number: int) -> memoryview:
        """The request for this post: a view that stays true until the next call.

        A different call id makes a different call log, so that no post is answered as a duplicate.
        """
        digits = b"%010d" % number
        for position in self.positions:
            self.request[position : position + len(digits)] = digits
        return memoryview(self.request)


def render(body: bytes, *, path: str, headers: tuple[tuple[str, str], ...] = ()) -> Template:
    """A POST of this JSON body over a connection that is kept open; ValueError when it lacks the placeholder.

    A header whose value holds the placeholder is numbered too, as an idempotency key must be.
    """
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("ascii")
    if PLACEHOLDER not in body:
        message = f"the body does not contain the call id {PLACEHOLDER.decode()}"
        raise ValueError(message)
    request = bytearray(head + body)
    positions = tuple(found.start() + _PREFIX for found in re.finditer(re.escape(PLACEHOLDER), request))
    return Template(request, positions, len(body))

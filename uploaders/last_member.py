"""Puts a member at the end of a JSON object while that streams by."""

import json
from collections.abc import AsyncIterator

_WHITESPACE = b" \t\r\n"


def encoded_member(name: str, value: str) -> bytes:
    """A member behind others: with the comma."""
    return f",{json.dumps(name)}:{json.dumps(value)}".encode()


async def with_last_member(document: AsyncIterator[bytes], member: bytes) -> AsyncIterator[bytes]:
    """The document with `member` before its last brace; the rest stays byte for byte as it came.

    The document is an object with at least one member. What may be its last brace, with the whitespace behind it, is
    held back until more comes or the end.
    """
    held = b""
    async for chunk in document:
        held += chunk
        brace = held.rfind(b"}")
        if brace < 0 or held[brace + 1 :].strip(_WHITESPACE):
            yield held
            held = b""
            continue
        if brace > 0:
            yield held[:brace]
        held = held[brace:]
    yield member + held

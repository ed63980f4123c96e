"""How the admin listener answers: JSON documents, and errors that say what happened and what to do."""

import msgspec
from aiohttp import web

_encode = msgspec.json.Encoder().encode

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Stand in every answer."""


class _Error(msgspec.Struct):
    code: str
    message: str
    hint: str


class _Refused(msgspec.Struct):
    error: _Error
    success: bool = False


def answer(document: msgspec.Struct, *, status: int = 200) -> web.Response:
    """A document as JSON."""
    return web.Response(body=_encode(document), status=status, content_type="application/json", headers=HEADERS)


def refused(status: int, code: str, message: str, hint: str) -> web.Response:
    """An error, in the shape that all errors of the gateway have."""
    return answer(_Refused(_Error(code, message, hint)), status=status)

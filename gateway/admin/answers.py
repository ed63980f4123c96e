"""How the admin listener answers: JSON documents, and errors that say what happened and what to do."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from aiohttp import web

from gateway.runbooks import RUNBOOK_OF

_encode = msgspec.json.Encoder().encode

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Stand in every answer."""
CODE = web.ResponseKey("code", str)
"""Under which a response that is an error holds its code, for the audit log."""


class _Error(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    hint: str
    runbook: str | None = None


class _Refused(msgspec.Struct):
    error: _Error
    success: bool = False


def answer(
    document: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    """A document as JSON."""
    sent = {**HEADERS, **headers}
    return web.Response(body=_encode(document), status=status, content_type="application/json", headers=sent)


def refused(
    status: int, code: str, message: str, hint: str, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    """An error, in the shape that all errors of the gateway have."""
    response = answer(_Refused(_Error(code, message, hint, RUNBOOK_OF.get(code))), status=status, headers=headers)
    response[CODE] = code
    return response

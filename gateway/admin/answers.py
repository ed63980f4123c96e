"""How the admin listener answers: JSON documents, and errors that say what happened and what to do."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import MappingProxyType

import msgspec
from aiohttp import web

from gateway.runbooks import RUNBOOK_OF
from spool.errors import SpoolError
from uploaders.document.render import BadLocation
from uploaders.stores.store import StoreError

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


async def streamed(
    request: web.Request, first: bytes, blocks: AsyncIterator[bytes], headers: Mapping[str, str] = HEADERS
) -> web.StreamResponse:
    """A document, a block at a time, of which the first one is there: what fails after it breaks the answer off.

    There is no way to answer anything else then, and whoever reads it has to see that it is not whole. To HEAD nothing
    is written but the headers: a body would be taken for the answer to the next request of the connection.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/json", **headers})
    with suppress(ConnectionError):  # whoever asked has heard enough
        await response.prepare(request)
        if request.method == "HEAD":
            await response.write_eof()
            return response
        try:
            await response.write(first)
            async for block in blocks:
                await response.write(block)
        except (SpoolError, StoreError, BadLocation):
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write_eof()
    return response

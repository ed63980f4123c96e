"""How the admin listener reads requests, and answers: in JSON, or with errors that say what happened and what to do."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TypeVar

import msgspec
from aiohttp import web

from gateway.runbooks import RUNBOOK_OF
from spool.errors import SpoolError
from uploaders.document.render import BadLocation
from uploaders.stores.parts import moment
from uploaders.stores.store import StoreError

_encode = msgspec.json.Encoder().encode

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Stand in every answer."""
CODE = web.ResponseKey("code", str)
"""Under which a response that is an error holds its code, for the audit log."""
LARGEST_REQUEST = 64 << 10
_ROUTES_HINT = "`/openapi.json` lists the routes."

Order = TypeVar("Order", bound=msgspec.Struct)


class BadRequest(ValueError):
    """A request that cannot be read as what its route takes; the message says why."""


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


@web.middleware
async def explained(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer a request that has no route, or cannot be read, in the shape of all errors."""
    try:
        return await handler(request)
    except BadRequest as error:
        hint = "docs/operating.md describes the requests of the admin API."
        return refused(400, "bad_request", f"Invalid request: {error}.", hint)
    except web.HTTPNotFound:
        return refused(404, "no_such_route", "There is nothing at this path.", _ROUTES_HINT)
    except web.HTTPMethodNotAllowed as error:
        message = f"This path takes {', '.join(sorted(error.allowed_methods))}, not {error.method[:20]}."
        return refused(405, "wrong_method", message, _ROUTES_HINT, {"Allow": error.headers["Allow"]})
    except web.HTTPRequestEntityTooLarge:
        message = f"A request may have at most {LARGEST_REQUEST:,} bytes, and a form at most 1,000 fields."
        return refused(413, "too_large", message, "Send several orders, or select by a filter and use the cursor.")


async def order_of(request: web.Request, kind: type[Order]) -> Order:
    """The order in the body of a request. Raises `BadRequest`."""
    return decoded(await request.read(), kind)


def decoded(text: bytes, kind: type[Order]) -> Order:
    """What a text of JSON says. Raises `BadRequest`."""
    try:
        return msgspec.json.decode(text, type=kind)
    except UnicodeDecodeError:
        raise BadRequest("JSON is malformed: it is not UTF-8") from None
    except msgspec.MsgspecError as error:
        raise BadRequest(str(error)) from None


async def form_of(request: web.Request) -> Mapping[str, str]:
    """The texts in the form of a request. Raises `BadRequest`."""
    try:
        fields = await request.post()
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        "".join(texts.values()).encode()
    except (ValueError, LookupError, RuntimeError):  # no such charset, boundary or encoding of a part; half a character
        raise BadRequest("the form cannot be decoded as its content type says") from None
    return texts


def check_parameters(request: web.Request, known: Collection[str]) -> None:
    """Raise `BadRequest` for a query parameter that is not known: a filter with a typo would select everything."""
    if unknown := sorted(set(request.query) - set(known)):
        raise BadRequest(f"unknown parameter {unknown[0]!r}: say {', '.join(known)}")


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """How many a query asks for. Raises `BadRequest`."""
    limit = query.get("limit", str(default))
    if not limit.isdecimal() or len(limit) > len(str(most)) or not 1 <= int(limit) <= most:
        raise BadRequest(f"limit should be a number from 1 to {most}")
    return int(limit)


def time_of(given: str | float | None, name: str) -> int | None:
    """The time (ms) that a query or an order gives under this name, as text or as a number. Raises `BadRequest`."""
    if given is None:
        return None
    numeric = isinstance(given, str) and given.replace(".", "", 1).isdecimal()
    at = moment(float(given) if numeric else given)
    if at is None:
        raise BadRequest(f"{name} should be a time, such as 2026-01-31T12:00:00Z or 1769860800")
    return at


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

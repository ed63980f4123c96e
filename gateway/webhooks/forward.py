"""Passing on what a provider asks, and the answer back, byte for byte."""

import asyncio

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from gateway.intake.responses import Rejection

_log = structlog.get_logger(__name__)

_ANSWER_MOST_BYTES = 4 << 20
"""An answer to a provider is a few KB."""
_NOT_PASSED_ON = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), and those that are made anew."""


class Forwarder:
    """One client for all sources; opened with the first request. For the event loop."""

    def __init__(self, timeout: float, via: str) -> None:
        """`timeout` in seconds: within it the provider must have its answer. `via` is what the gateway is called.

        A server that leads back here would be asked, and ask, without end: it recognises that name (`LoopGuard`).
        """
        self._timeout = timeout
        self._via = via
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, url: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """The answer of the server there, whatever it says. Raises `Rejection` (502, 504) where there is none."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON]
        headers.append(("Via", f"1.1 {self._via}"))
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.content.read(_ANSWER_MOST_BYTES + 1)
                while chunk := await response.content.read(_ANSWER_MOST_BYTES + 1 - len(answer)):
                    answer += chunk
                kept = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_PASSED_ON}
                status = response.status
        except TimeoutError:
            raise self._failed(504, url, f"gave no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            raise self._failed(502, url, f"could not be asked: {type(error).__name__}") from error
        if len(answer) > _ANSWER_MOST_BYTES:
            raise self._failed(502, url, f"answered more than {_ANSWER_MOST_BYTES} bytes")
        return web.Response(status=status, body=answer, headers=kept)

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _failed(self, status: int, url: str, what: str) -> Rejection:
        # The provider's user hears silence now: an operator should see why.
        _log.error("webhook_not_answered", host=URL(url).host, reason=what)
        hint = "Check forward_url of the source, and that its server is up."
        return Rejection(status, "forward_failed", f"The server behind forward_url {what}.", hint)

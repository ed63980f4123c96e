"""The server side of one connection, as aiohttp has it, with what this intake wants otherwise."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from gateway.intake.answers import refusal_answer
from gateway.intake.ports import IntakeObserver
from gateway.intake.refusals import Refusal, internal
from gateway.intake.routes import Route

RECEIVE_BYTES = 64 * 1024
"""What aiohttp holds of a body that nobody has asked for yet, before it makes the sender wait."""
_LEAST_SERVER_ERROR = 500


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many clients may be connected, and how long they may be silent. Times in seconds."""

    header_timeout: float = 10.0
    """For the headers of a connection's first request to arrive in full."""
    keepalive_timeout: float = 75.0
    """For those of each later one."""
    connections_max: int = 1024
    """A client above it is answered 503; each connection may hold up to 256 KB, one read, that no budget knows of."""


class IntakeProtocol(web.RequestHandler):
    """Cuts off a client that sends no complete headers, and answers broken requests in JSON."""

    __slots__ = ("_headers_due", "_server")

    def __init__(self, server: "IntakeWebServer", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off; the annotation leaves that out
            auto_decompress=False,
            keepalive_timeout=server.limits.keepalive_timeout,
            read_bufsize=RECEIVE_BYTES,
        )
        self._server = server
        self._headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        super().connection_made(transport)
        self._server.connected += 1
        self._headers_due = self._loop.call_later(self._server.limits.header_timeout, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection ended."""
        self.headers_came()
        self._server.connected -= 1
        super().connection_lost(exc)

    def headers_came(self) -> None:
        """The headers of a request are complete; those of later ones have as long as an idle connection."""
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that is no proper HTTP, or that the handler let an error out of."""
        if status >= _LEAST_SERVER_ERROR:
            self.log_exception("unexpected error in the intake's server", exc_info=exc)
            refusal = internal()
        else:
            what = (message or "malformed request").strip().split("\n", 1)[0]
            refusal = Refusal(status, "bad_request", f"This is no valid HTTP request: {what}", "See RFC 9112.")
        refusal.closes = True
        self._server.observer.posted(Route.NONE.value, refusal.code)
        return refusal_answer(refusal)


class IntakeWebServer(web.Server):
    """Makes an `IntakeProtocol` for each connection, and counts them."""

    def __init__(self, handler: Handler, observer: IntakeObserver, limits: ConnectionLimits) -> None:
        super().__init__(self._handle)
        self.observer = observer
        self.limits = limits
        self.connected = 0
        self._handler = handler

    def __call__(self) -> IntakeProtocol:
        """The protocol of a new connection."""
        return IntakeProtocol(self, self._loop)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, IntakeProtocol), "made by __call__"
        protocol.headers_came()
        if self.connected > self.limits.connections_max:
            self.observer.posted(Route.NONE.value, "crowded")
            return refusal_answer(_crowded())
        return await self._handler(request)


def _crowded() -> Refusal:
    return Refusal(
        503,
        "crowded",
        "Too many clients are connected.",
        "Send the call log again in a moment.",
        retry_after=1,
        closes=True,
    )

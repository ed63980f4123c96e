"""The intake's listener: opens early, accepts posts once the gate is open, and stops after the requests in flight."""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import replace

import structlog

from gateway.intake.admission import AdmissionGate
from gateway.intake.ports import IntakeObserver
from gateway.intake.protocol import BufferedProtocolAdapter, ConnectionLimits, Handler, IntakeWebServer
from gateway.listeners import Listener, ListenOptions
from gateway.process import connections_possible

_log = structlog.get_logger(__name__)
_BACKLOG = 2048
"""Connections that wait to be accepted; the kernel caps it at net.core.somaxconn. The SDK opens one for each post."""
_CLOSE_SECONDS = 0.5
"""For clients that have connected to ask and be refused, and to read why, before their connections are reset."""
_AT_ONCE = 0.01
"""aiohttp takes 0 for no limit."""


class IntakeServer:
    """Listens on one address, with or without TLS. For the event loop."""

    def __init__(
        self,
        options: ListenOptions,
        handler: Handler,
        gate: AdmissionGate,
        observer: IntakeObserver,
        limits: ConnectionLimits,
    ) -> None:
        self._options = options
        self._handler = handler
        self._gate = gate
        self._observer = observer
        self._limits = limits
        self._web: IntakeWebServer | None = None
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, as configured until it listens; a Unix socket has none (0)."""
        return self._options.port if self._listener is None else self._listener.port

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return 0 if self._web is None else self._web.limiter.connected

    @property
    def held(self) -> int:
        """Bytes that clients sent and that no reservation covers."""
        return 0 if self._web is None else self._web.limiter.held

    async def start(self, tls: ssl.SSLContext | None = None, inherited: socket.socket | None = None) -> None:
        """Listen; posts are answered 503 until the gate is opened. Raises `OSError` if the address is taken.

        `inherited` is the socket of a server before this one: who connected meanwhile waits in it, and is served.
        """
        limits = self._within_descriptors()
        web_server = self._web = IntakeWebServer(self._handler, self._gate, self._observer, limits)
        self._listener = Listener(
            self._options, lambda: BufferedProtocolAdapter(web_server(), secure=tls is not None), _BACKLOG
        )
        await self._listener.start(tls, inherited)

    async def replace_tls(self, tls: ssl.SSLContext) -> None:
        """Accept connections with another context from now on."""
        if self._listener is not None:
            await self._listener.replace_tls(tls)

    def dup_listening_socket(self) -> socket.socket | None:
        """A second hold on the socket that it listens on; None where it listens on several, or not yet."""
        if self._listener is None:
            return None
        duplicate = self._listener.duplicate()
        if duplicate is not None:
            self._listener.keep_file()
        return duplicate

    async def stop(self, drain_seconds: float) -> int:
        """Close the gate, wait for the requests in flight, and close every connection; new requests get 503 meanwhile.

        Returns how many posts were cut off because `drain_seconds` were over; none of them had been acknowledged.
        """
        self._gate.close()
        if self._web is None or self._listener is None:
            return 0
        with contextlib.suppress(TimeoutError):  # those still inside are counted and cut off
            async with asyncio.timeout(drain_seconds):
                await self._gate.drained()
        cut_off = self._gate.in_flight
        self._listener.close()
        if not cut_off:
            await self._web.linger(_CLOSE_SECONDS)
        await self._web.shutdown(_AT_ONCE)
        return cut_off

    def _within_descriptors(self) -> ConnectionLimits:
        """The limits, with no more connections than this process may have: to run out of them would stop everything."""
        possible = connections_possible()
        if possible >= self._limits.connections_max:
            return self._limits
        _log.warning(
            "few_file_descriptors",
            connections_max=possible,
            configured=self._limits.connections_max,
            hint="Raise the hard limit of open files (ulimit -Hn, LimitNOFILE), or lower intake.connections_max.",
        )
        return replace(self._limits, connections_max=possible)

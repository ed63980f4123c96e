"""The endpoint of a check: takes call logs as an endpoint does, and misbehaves when it is told to."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

import msgspec
from aiohttp import web

from gateway.chaos.oracle import Arrival, Notes, Part, whole_content
from gateway.chaos.posts import hash_of
from gateway.intake.decoding import ENVELOPE, DecodingLimits, decode, decoders_for

PATH = "/send-call-log"


class Mood(StrEnum):
    """How it behaves."""

    WELL = "well"
    """It takes what comes."""
    BUSY = "busy"
    """It answers 503."""
    CUT = "cut"
    """It cuts the connection in the middle of a request."""


class ChaosEndpoint:
    """A server on a free port of this machine that notes what arrives."""

    def __init__(self, notes: Notes) -> None:
        self.mood = Mood.WELL
        self._notes = notes
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=0.5)
        self._port = 0

    @property
    def url(self) -> str:
        """Where call logs are to be sent."""
        return f"http://127.0.0.1:{self._port}{PATH}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if self.mood is Mood.CUT:
                return self._cut(request)
        if self.mood is Mood.BUSY:
            self._notes.turned_away += 1
            return web.json_response({"error": "made to fail"}, status=503)
        document = decoded(bytes(body), request.headers)
        self._notes.arrivals.append(arrival_of(document, request.headers.get("Idempotency-Key", "")))
        return web.json_response({"success": True})

    def _cut(self, request: web.Request) -> web.Response:
        self._notes.turned_away += 1
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)


def decoded(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The document that a request carries, out of its Content-Encoding and the envelope."""
    limits = DecodingLimits()
    plain = b"".join(decode(body, decoders_for(headers.get("Content-Encoding", "")), limits))
    document: dict[str, Any] = msgspec.json.decode(plain)
    if document.get("compressed") is True:
        inside = b"".join(decode(document["data"].encode(), ENVELOPE, limits))
        document = msgspec.json.decode(inside)
    return document


def arrival_of(document: Mapping[str, Any], key: str) -> Arrival:
    """What of it is to be noted."""
    call_id = str(document.get("call_id"))
    telemetry = hash_of(document["telemetry_data"]) if "telemetry_data" in document else None
    if document.get("update_type") == "detailed_telemetry":
        return Arrival(key, Part.DETAIL, call_id, None, telemetry or "")
    head = hash_of(document.get("metadata"))
    number = document["metadata"]["number"]
    part = Part.CORE if key.endswith(f"-{Part.CORE}") else Part.WHOLE
    return Arrival(key, part, call_id, number, head if part is Part.CORE else whole_content(head, telemetry))

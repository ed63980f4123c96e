"""The agents of a check: each posts one call after the other, and every call log until it is acknowledged."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp import web

from gateway.chaos.oracle import Arrival, Notes, Part, Post, hash_of, make_post, whole_content
from gateway.intake.decoding import ENVELOPE, DecodingLimits, decode, decoders_for

AGAIN_SECONDS = 0.2
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_OK = range(200, 300)


class Agents:
    """Posts to an intake, as long as `run` is not cancelled. `large_bytes` is the size of a large call log."""

    def __init__(self, url: str, notes: Notes, *, token: str | None, large_bytes: int, run_id: str) -> None:
        self._url = url
        self._notes = notes
        self._headers = {"Content-Type": "application/json"} | ({"x-pype-token": token} if token else {})
        self._large_bytes = large_bytes
        self._run_id = run_id
        self._numbers: Iterator[int] = itertools.count(1)
        self.may_begin = asyncio.Event()
        """Cleared while no new call log is to be begun."""
        self.may_begin.set()

    async def run(self, count: int, *, large_every: int) -> None:
        """`count` agents at once; one of `large_every` call logs is large."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session, asyncio.TaskGroup() as group:
            for agent in range(count):
                group.create_task(self._talk(session, agent, large_every))

    async def fill(self, until: Callable[[str], bool], limit: int) -> None:
        """Post large call logs, each once, until an answer's code is one that `until` accepts; at most `limit`."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session:
            for number in range(limit):
                post = make_post(next(self._numbers), f"{self._run_id}-fill-{number}", "call_ended", self._large_bytes)
                self._notes.posted[post.number] = post
                code = await self._post(session, post)
                if until(code):
                    return

    async def _talk(self, session: aiohttp.ClientSession, agent: int, large_every: int) -> None:
        for turn in itertools.count():
            call_id = f"{self._run_id}-{agent}-{turn}"
            large = self._large_bytes if turn % large_every == agent % large_every else None
            for event, size in (("call_started", None), ("call_ended", large)):
                await self.may_begin.wait()
                post = make_post(next(self._numbers), call_id, event, size)
                self._notes.posted[post.number] = post
                await self._post_until_acknowledged(session, post)

    async def _post_until_acknowledged(self, session: aiohttp.ClientSession, post: Post) -> None:
        while await self._post(session, post):  # noqa: ASYNC110  # agents, too, only wait for a while
            await asyncio.sleep(AGAIN_SECONDS)

    async def _post(self, session: aiohttp.ClientSession, post: Post) -> str:
        """Post once. Returns the code of the refusal, "unreachable", or nothing where it was acknowledged."""
        try:
            async with session.post(self._url, data=post.body, headers=self._headers) as answer:
                text = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._notes.refused["unreachable"] += 1
            return "unreachable"
        if status in _OK:
            self._notes.acknowledged.add(post.number)
            return ""
        code = _code_of(text) or str(status)
        self._notes.refused[code] += 1
        return code


def _code_of(text: bytes) -> str | None:
    """The gateway's own word for why it refused."""
    try:
        return str(msgspec.json.decode(text)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


# The endpoint of a check: accepts call logs, and fails in the fault mode that it is set to.

PATH = "/send-call-log"


class FaultMode(StrEnum):
    """How the endpoint fails."""

    NONE = "none"
    """It does not: everything is accepted."""
    HTTP_503 = "http_503"
    """It answers 503."""
    HTTP_404 = "http_404"
    """It answers 404, as while it is being redeployed."""
    HTTP_409 = "http_409"
    """It answers 409: it still processes an earlier attempt."""
    FAILS_WITH_200 = "fails_with_200"
    """It answers 200 with a body that reports a failure, as an API gateway does for a function that crashed."""
    ODD_SUCCESS = "odd_success"
    """It accepts everything, and says so in unusual ways."""
    DISCONNECT = "disconnect"
    """It cuts the connection in the middle of a request."""


_REFUSALS = {
    FaultMode.HTTP_503: ((503, '{"error": "made to fail"}'),),
    FaultMode.HTTP_404: ((404, '{"message": "Not Found"}'),),
    FaultMode.HTTP_409: ((409, '{"error": "still being processed"}'),),
    FaultMode.FAILS_WITH_200: (
        (200, '{"errorMessage": "Task timed out after 3.00 seconds", "errorType": "Sandbox.Timedout"}'),
        (200, '{"statusCode": 502, "body": "{\\"message\\": \\"Internal server error\\"}"}'),
        (200, '\ufeff{"success": "false"}'),
        (207, '{"errors": [{"code": 500}]}'),
    ),
}
"""Status and body of what the endpoint answers, in turn, to what it does not take."""
_SUCCESSES = (
    ('{"success": true}', "application/json"),
    ('\ufeff{"success": true}', "application/json"),
    (")]}',\n" + '{"success": true}', "application/json"),
    ("ok", "text/html"),
)
"""Body and content type of what it answers, in turn, to what it takes; the first one unless it is to be odd."""


class ChaosEndpoint:
    """A server on a free port of this machine that notes what arrives."""

    def __init__(self, notes: Notes) -> None:
        self.fault_mode = FaultMode.NONE
        self._notes = notes
        self._turns = itertools.count()
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
            if self.fault_mode is FaultMode.DISCONNECT:
                return self._cut(request)
        turn = next(self._turns)
        if (refusals := _REFUSALS.get(self.fault_mode)) is not None:
            self._notes.turned_away += 1
            status, text = refusals[turn % len(refusals)]
            return web.Response(status=status, text=text, content_type="application/json")
        document = decoded(bytes(body), request.headers)
        self._notes.arrivals.append(arrival_of(document, request.headers.get("Idempotency-Key", "")))
        text, content_type = _SUCCESSES[turn % len(_SUCCESSES) if self.fault_mode is FaultMode.ODD_SUCCESS else 0]
        return web.Response(text=text, content_type=content_type)

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

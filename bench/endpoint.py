"""An endpoint that behaves as Whispey's does, for tests and benchmarks: a real HTTP server on loopback.

In a test:            async with Endpoint() as endpoint: ... endpoint.url, endpoint.arrivals
As a process:         python -m bench.endpoint --port 0 --journal FILE     (prints its URL first)
Faults while it runs: POST /_fault {"kind": "status", "status": 503, "retry_after": "2", "times": 3}

It takes plain JSON, the envelope, and gzip or zstd bodies, and gives upload addresses (bench.storage); answers 413
above 6 MB, 404 "Call log not found" to a detail whose core it has not taken, 400 without an idempotency key, 401 for a
wrong token where one is set.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from bench.decoded import TOP_LEVEL, Request, call_id_of, decode, kind_of
from bench.storage import FOLDER, Storage

MAX_REQUEST_BYTES = 6 * 1024 * 1024
PATIENCE_SECONDS = 60.0
"""For what is waited for: only a failure takes that long."""
PATH = "/dev/send-call-log"


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering well, for so many requests (None: until it is changed).

    `kind` is none, status, hang (no answer until changed), reset (the connection is cut), redirect, success_false, or
    odd_success: what arrives is taken, and `body` is the answer. No other kind takes anything, whatever its status
    says. `only` restricts it to one kind of record: whole, core, detail or notice; `token` to what carries
    this one.
    """

    kind: str = "none"
    status: int = 500
    body: str = '{"error": "made to fail"}'
    content_type: str = "application/json"
    retry_after: str | None = None
    times: int | None = None
    only: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class Arrival:
    """One request as it arrived and was answered; in a journal, an object that came through an upload address too."""

    call_id: str
    kind: str
    key: str
    token: str | None
    sha256: str
    """Of the decoded document."""
    raw_bytes: int
    sent_bytes: int
    encoding: str
    at: float
    """`time.monotonic()`, comparable among the processes of one machine."""
    status: int
    taken: bool
    """Whether the endpoint has it now: an answer of 200 may report a failure."""


@dataclass
class Endpoint:
    """The server, and what arrived at it. With a journal, arrivals are written there and not kept."""

    token: str | None = None
    port: int = 0
    journal: Path | None = None
    tls: ssl.SSLContext | None = None
    keep_documents: bool = True
    max_request_bytes: int = MAX_REQUEST_BYTES
    fault: Fault = Fault()
    arrivals: list[Arrival] = field(default_factory=list)
    """Every request that was understood, in order of arrival, refused ones included."""
    documents: dict[str, bytes] = field(default_factory=dict)
    """The accepted documents by idempotency key."""
    conflicts: list[str] = field(default_factory=list)
    """Keys that came with two different documents: always a defect of the sender."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    """One entry for every TCP connection that carried a request."""
    storage: Storage = field(default_factory=Storage)
    under_way: int = 0
    """How many requests it is reading or answering."""

    def __post_init__(self) -> None:
        self._cores: set[str] = set()
        self._digests: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._released = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}{PATH}"

    @property
    def accepted(self) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.taken]

    @property
    def call_logs(self) -> list[Any]:
        """The accepted documents, parsed, in the order in which their keys came first."""
        return [json.loads(document) for document in self.documents.values()]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port as before."""
        app = web.Application()
        app.router.add_post("/_fault", self._set_fault)
        app.router.add_post("/{path:.*}/get-upload-url", self._give_address)
        app.router.add_put(FOLDER + "{key:.+}", self._take_upload)
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "localhost", self.port, ssl_context=self.tls, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections from now on, and release what hangs."""
        self.set_fault(Fault())
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def set_fault(self, fault: Fault) -> None:
        """Behave like this from the next request on; what hangs is let go."""
        self.fault = fault
        self._released.set()
        self._released = asyncio.Event()
        self._tell()

    async def wait_for(self, count: int, *, deadline: float = PATIENCE_SECONDS) -> list[Arrival]:
        """Wait until so many requests were accepted; returns them."""
        await self.wait_until(lambda: len(self.accepted) >= count, deadline=deadline)
        return self.accepted

    async def wait_until(self, condition: Callable[[], bool], *, deadline: float = PATIENCE_SECONDS) -> None:
        """Wait until this holds; looked at whenever a request comes in or is answered."""
        async with asyncio.timeout(deadline):
            while not condition():
                await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _set_fault(self, request: web.Request) -> web.Response:
        self.set_fault(Fault(**await request.json()))
        return web.json_response({"success": True})

    async def _give_address(self, request: web.Request) -> web.Response:
        return await self.storage.give(request, self.token)

    async def _take_upload(self, request: web.Request) -> web.Response:
        """The object's arrival starts its processing: from then on the call is known."""
        answer = await self.storage.take(request)
        if answer.status == 200:
            key = request.match_info["key"]
            document = self.storage.objects[key]
            call_id = call_id_of(TOP_LEVEL.decode(document))
            self._cores.add(call_id)
            if self.journal is not None:
                del self.storage.objects[key]
                size, digest = len(document), hashlib.sha256(document).hexdigest()
                now = time.monotonic()
                self._keep(Arrival(call_id, "object", key, None, digest, size, size, "identity", now, 200, taken=True))
        self._tell()
        return answer

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        self.connections.add(id(request.transport))
        self.under_way += 1
        self._tell()
        try:
            return await self._reply(request)
        finally:
            self.under_way -= 1
            self._tell()

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        body = await self._read(request)
        if body is None:
            return web.Response(status=413, text="Request Entity Too Large")
        try:
            decoded = await asyncio.to_thread(decode, body, request.headers.get("Content-Encoding", "identity"))
        except ValueError as error:
            return web.json_response({"success": False, "error": str(error)}, status=400)
        fault = self._take_fault(kind_of(decoded.members), request.headers.get("x-pype-token"))
        if fault and fault.kind != "odd_success":
            answer, taken = await self._fail(fault, request), False
        else:
            answer = self._answer(request, decoded)
            taken = answer.status < 300
            if fault and taken:
                answer = web.Response(text=fault.body, content_type=fault.content_type)
        self._note(request, decoded, answer.status, taken=taken)
        return answer

    async def _read(self, request: web.Request) -> bytes | None:
        """The whole body, or None when it is above the limit; the rest is then read and dropped, as a proxy does."""
        body = bytearray()
        async for chunk in request.content.iter_any():
            if len(body) <= self.max_request_bytes:
                body += chunk
        return bytes(body) if len(body) <= self.max_request_bytes else None

    def _take_fault(self, kind: str, token: str | None) -> Fault | None:
        fault = self.fault
        if fault.kind == "none" or fault.only not in {None, kind} or fault.token not in {None, token}:
            return None
        if fault.times is not None:
            left = replace(fault, times=fault.times - 1)
            self.fault = left if left.times else Fault()
        return fault

    async def _fail(self, fault: Fault, request: web.Request) -> web.Response:
        headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
        if fault.kind == "hang":
            await self._released.wait()
        if fault.kind in {"hang", "reset"}:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=599)
        if fault.kind == "redirect":
            return web.Response(status=302, headers={"Location": "https://login.example/sso?ticket=s3cr3t"})
        if fault.kind == "success_false":
            return web.Response(text='{"success": false, "error": "not stored"}', content_type="application/json")
        return web.Response(status=fault.status, text=fault.body, content_type=fault.content_type, headers=headers)

    def _answer(self, request: web.Request, decoded: Request) -> web.Response:
        if self.token is not None and request.headers.get("x-pype-token") != self.token:
            return web.json_response({"success": False, "error": "Invalid token"}, status=401)
        if "Idempotency-Key" not in request.headers:
            return web.json_response({"success": False, "error": "no idempotency key"}, status=400)
        call_id, kind = call_id_of(decoded.members), kind_of(decoded.members)
        if kind in {"detail", "notice"} and call_id not in self._cores:
            return web.json_response({"success": False, "error": "Call log not found"}, status=404)
        if kind in {"core", "whole"}:
            self._cores.add(call_id)
        return web.json_response({"success": True, "call_id": call_id})

    def _note(self, request: web.Request, decoded: Request, status: int, *, taken: bool) -> None:
        key, digest = request.headers.get("Idempotency-Key", ""), hashlib.sha256(decoded.document).hexdigest()
        if self._digests.setdefault(key, digest) != digest:
            self.conflicts.append(key)
        arrival = Arrival(
            call_id=call_id_of(decoded.members),
            kind=kind_of(decoded.members),
            key=key,
            token=request.headers.get("x-pype-token"),
            sha256=digest,
            raw_bytes=len(decoded.document),
            sent_bytes=decoded.sent_bytes,
            encoding=decoded.encoding,
            at=time.monotonic(),
            status=status,
            taken=taken,
        )
        self._keep(arrival)
        if self.keep_documents and taken:
            self.documents[key] = decoded.document
        self._tell()

    def _keep(self, arrival: Arrival) -> None:
        if self.journal is None:
            self.arrivals.append(arrival)
            return
        with self.journal.open("a") as journal:
            journal.write(json.dumps(asdict(arrival)) + "\n")


async def serve(endpoint: Endpoint) -> None:
    """Run until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with endpoint:
        print(endpoint.url, flush=True)
        await stopped.wait()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.endpoint", description="An endpoint for tests and benchmarks")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path, help="append what arrives to this file, one JSON object a line")
    parser.add_argument("--token", help="the only x-pype-token to accept")
    options = parser.parse_args(arguments)
    asyncio.run(serve(Endpoint(options.token, options.port, options.journal, keep_documents=False)))


if __name__ == "__main__":
    main(sys.argv[1:])

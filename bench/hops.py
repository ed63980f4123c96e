"""How many files one request passes: an eye on the layout, as the benchmark is one on speed.

    python -m bench hops [--repeats 3]

A real gateway runs under `sys.setprofile`. It counts, in all its threads, the product files and classes of which a
function was called, and the calls that go from one file into another. A request is counted several times, and what all
of these have in common is its way: work that happened to run beside it (maintenance, summaries) falls out. Processes
that the gateway starts are not looked into; none of these requests needs one.
"""

import asyncio
import contextlib
import dis
import io
import json
import runpy
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

import aioboto3
import aiohttp
import click
from aiohttp import web
from rich.console import Console
from rich.table import Table

from bench.calllogs import make_call_log
from bench.processes import ServerFailed, answers, free_port, wait_until
from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server, seaweedfs

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = ("gateway", "spool", "uploaders", "config")
ACCEPTED: Final = "2 KB post, until its 202"
STORED: Final = "15 MB post, until core and detail are in S3"
REPEATED: Final = "2 KB post, until its delivery was answered 503 and repeated"
_SMALL_BYTES: Final = 2_000
_LARGE_BYTES: Final = 15_000_000
_BUCKET: Final = "hops"
_QUIET_SECONDS: Final = 0.3
"""Without a call for so long, the gateway has written down how the last delivery ended."""
_HEARTBEATS: Final = {"LoopClock"}
"""Classes that run by themselves, whether or not a request is under way."""
_ROUNDS: Final = {
    "HeartbeatWatch._run",
    "Gateway._reload_on_change",
    "Maintenance.run",
    "Scrub.run",
    "follow_readiness",
}
"""Functions that do so now and then; what they call is no part of a request either."""
_WAIT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Way:
    """What one request passed."""

    files: frozenset[str]
    classes: frozenset[str]
    hops: int
    """Calls from a function in one product file to a function in another one."""

    def common(self, other: "Way") -> "Way":
        """What two requests of a kind both passed."""
        return Way(self.files & other.files, self.classes & other.classes, min(self.hops, other.hops))


# Inside the gateway's process ----------------------------------------------------------------------------------------


class Profiler:
    """Counts calls of product functions while `counting`. Its `event` is given to `sys.setprofile` of every thread."""

    def __init__(self, root: Path = ROOT) -> None:
        self.counting = False
        self.until_answered = False
        """Whether the first byte of an HTTP answer ends the count."""
        self.last_call = 0.0
        self._prefixes = tuple(f"{root / package}/" for package in PACKAGES)
        self._root = f"{root}/"
        self._known: dict[CodeType, tuple[str, str | None, frozenset[int]] | None] = {}
        self._files: set[str] = set()
        self._classes: set[str] = set()
        self._hops = 0

    def begin(self, *, until_answered: bool) -> None:
        """Count from now on."""
        self._files, self._classes, self._hops = set(), set(), 0
        self.until_answered = until_answered
        self.last_call = time.monotonic()
        self.counting = True

    def end(self) -> Way:
        """What was counted."""
        self.counting = False
        return Way(frozenset(self._files), frozenset(self._classes), self._hops)

    def event(self, frame: FrameType, event: str, _argument: object) -> None:
        """A function was called; the signature is that of a profile function."""
        if not self.counting or event != "call":
            return
        place = self._place(frame.f_code)
        if place is None:
            if self.until_answered and _writes_answer(frame.f_code):
                self.counting = False
            return
        if _makes_a_round(frame):
            return
        file, owner, starts = place
        if owner not in _HEARTBEATS:
            self.last_call = time.monotonic()
        self._files.add(file)
        if owner is not None:
            self._classes.add(f"{file}:{owner}")
        # A coroutine that goes on after an await is reported as a call, too.
        if frame.f_lasti in starts and (caller := self._caller(frame)) is not None and caller != file:
            self._hops += 1

    def _caller(self, frame: FrameType) -> str | None:
        outer = frame.f_back
        while outer is not None:
            place = self._place(outer.f_code)
            if place is not None:
                return place[0]
            outer = outer.f_back
        return None

    def _place(self, code: CodeType) -> tuple[str, str | None, frozenset[int]] | None:
        """The file below the root, the class, and the offsets at which a fresh call is reported."""
        if code not in self._known:
            inside = code.co_filename.startswith(self._prefixes)
            file = code.co_filename.removeprefix(self._root)
            self._known[code] = (file, _class_of(code), _starts_of(code)) if inside else None
        return self._known[code]


def _makes_a_round(frame: FrameType) -> bool:
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_qualname not in _ROUNDS:
        outer = outer.f_back
    return outer is not None


def _class_of(code: CodeType) -> str | None:
    owner, _, _ = code.co_qualname.split(".<locals>", 1)[0].rpartition(".")
    return owner or None


def _starts_of(code: CodeType) -> frozenset[int]:
    return frozenset(
        instruction.offset
        for instruction in dis.get_instructions(code)
        if instruction.opname == "RESUME" and (instruction.arg or 0) & 3 == 0
    )


def _writes_answer(code: CodeType) -> bool:
    return code.co_name in {"_write", "_writelines"} and code.co_filename.endswith("aiohttp/http_writer.py")


def run_profiled() -> None:
    """Run `callspool run`, and count as the lines on stdin order it; each order is answered by a line of JSON."""
    profiler = Profiler()
    threading.Thread(target=_obey, args=(profiler,), daemon=True).start()
    threading.setprofile(profiler.event)
    sys.setprofile(profiler.event)
    sys.argv = ["callspool", "run"]
    runpy.run_path(str(Path(sys.executable).with_name("callspool")), run_name="__main__")


def _obey(profiler: Profiler) -> None:
    for line in sys.stdin:
        match line.strip():
            case "end":
                way = profiler.end()
                answer: object = {"files": sorted(way.files), "classes": sorted(way.classes), "hops": way.hops}
            case "quiet":
                while time.monotonic() - profiler.last_call < _QUIET_SECONDS:
                    time.sleep(0.02)
                answer = "quiet"
            case order:
                profiler.begin(until_answered=order == "begin-until-answered")
                answer = order
        print(json.dumps(answer), flush=True)


# Outside of it -------------------------------------------------------------------------------------------------------


class Gateway:
    """A gateway under the profiler, as a client sees it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, session: aiohttp.ClientSession) -> None:
        self._process = process
        self._port = port
        self._session = session
        self._posts = 0

    async def order(self, line: str) -> object:
        """Tell the profiler; returns its answer."""
        assert self._process.stdin is not None, "started with pipes"
        assert self._process.stdout is not None, "started with pipes"
        self._process.stdin.write(f"{line}\n".encode())
        answer = await asyncio.wait_for(self._process.stdout.readline(), _WAIT_SECONDS)
        if not answer:
            raise ServerFailed("the gateway under the profiler ended early")
        return json.loads(answer)

    async def counted(self) -> Way:
        """End the count."""
        match await self.order("end"):
            case {"files": list(files), "classes": list(classes), "hops": int(hops)}:
                return Way(frozenset(files), frozenset(classes), hops)
            case other:
                raise ServerFailed(f"the profiler answered {other!r}")

    async def post(self, size: int) -> str:
        """Post a call log of its own; returns its call id."""
        self._posts += 1
        call_id = f"hops-{size}-{self._posts}"
        body = make_call_log(size, seed=self._posts, call_id=call_id)
        url = f"http://127.0.0.1:{self._port}/dev/send-call-log"
        headers = {"Content-Type": "application/json", "x-pype-token": "a-token-of-the-benchmark"}
        async with self._session.post(url, data=io.BytesIO(body), headers=headers) as answer:
            if answer.status != 202:
                raise ServerFailed(f"a post was answered {answer.status}: {await answer.text()}")
        return call_id


@contextlib.asynccontextmanager
async def _profiled(folder: Path, settings: dict[str, str]) -> AsyncIterator[Gateway]:
    intake, admin = free_port(), free_port()
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "CALLSPOOL_SPOOL_DIR": str(folder / "spool"),
        "CALLSPOOL_INTAKE_LISTEN": f"127.0.0.1:{intake}",
        "CALLSPOOL_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        **settings,
    }
    log = folder / "gateway.log"
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.hops", "--profiled", cwd=ROOT, env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=1 << 20,
        )  # fmt: skip
    try:
        ready = partial(_ready, process, admin, log)
        await asyncio.to_thread(wait_until, ready, "the gateway is ready", _WAIT_SECONDS)
        async with aiohttp.ClientSession() as session:
            yield Gateway(process, intake, session)
    finally:
        if process.returncode is None:
            process.kill()  # its spool goes with the folder
        await process.wait()


def _ready(process: asyncio.subprocess.Process, admin: int, log: Path) -> bool:
    if process.returncode is not None:
        raise ServerFailed(f"the gateway under the profiler did not start: {log.read_text()[-2000:]}")
    return answers(admin, "/readyz")


class _Endpoint:
    """Answers the first request of each delivery 503, the next one 200."""

    def __init__(self) -> None:
        self._failed: set[str] = set()
        self.delivered = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        """Take any post."""
        await request.read()
        key = request.headers["Idempotency-Key"]
        if key not in self._failed:
            self._failed.add(key)
            return web.json_response({"error": "busy"}, status=503)
        self.delivered.set()
        return web.json_response({"success": True})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Yields the port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


async def accepted(folder: Path, repeats: int) -> Way:
    """A small post. Nothing listens at its endpoint, so that no delivery runs beside it."""
    async with _profiled(folder, _endpoint_settings(free_port())) as gateway:
        await gateway.post(_SMALL_BYTES)  # the first one makes what is kept
        await gateway.order("quiet")  # its delivery has failed, and is not repeated at once
        ways = []
        for _ in range(repeats):
            await gateway.order("begin-until-answered")
            await gateway.post(_SMALL_BYTES)
            ways.append(await gateway.counted())
    return _common(ways)


async def repeated(folder: Path, repeats: int) -> Way:
    """A small post until its delivery failed, was repeated, and is settled."""
    endpoint = _Endpoint()
    async with endpoint.serving() as port, _profiled(folder, _endpoint_settings(port)) as gateway:
        ways = []
        for _ in range(repeats):
            endpoint.delivered.clear()
            await gateway.order("begin")
            await gateway.post(_SMALL_BYTES)
            await asyncio.wait_for(endpoint.delivered.wait(), _WAIT_SECONDS)
            await gateway.order("quiet")
            ways.append(await gateway.counted())
    return _common(ways)


async def stored(folder: Path, repeats: int, server: Server) -> Way:
    """A large post until its core and its detail lie in a bucket and are settled."""
    settings = {
        "CALLSPOOL_S3_BUCKET": _BUCKET,
        "CALLSPOOL_S3_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    session = aioboto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    async with session.client("s3", endpoint_url=server.endpoint) as client:
        await client.create_bucket(Bucket=_BUCKET)

        async with _profiled(folder, settings) as gateway:
            ways = []
            for number in range(1, repeats + 1):
                await gateway.order("begin")
                await gateway.post(_LARGE_BYTES)
                async with asyncio.timeout(_WAIT_SECONDS):
                    while (await client.list_objects_v2(Bucket=_BUCKET)).get("KeyCount", 0) < 2 * number:
                        await gateway.order("quiet")
                await gateway.order("quiet")
                ways.append(await gateway.counted())
    return _common(ways)


def _endpoint_settings(port: int) -> dict[str, str]:
    return {"CALLSPOOL_ENDPOINT_URL": f"http://127.0.0.1:{port}/dev/send-call-log"}


def _common(ways: Sequence[Way]) -> Way:
    first, *others = ways
    for other in others:
        first = first.common(other)
    return first


def count_hops(repeats: int) -> tuple[dict[str, Way], str | None]:
    """The way of each kind of request, and why one is missing, where the S3 server does not start."""
    ways, missing = {}, None
    with tempfile.TemporaryDirectory(prefix="hops-") as name:
        folder = Path(name)
        for part in ("accepted", "stored", "repeated", "s3"):
            (folder / part).mkdir()
        ways[ACCEPTED] = asyncio.run(accepted(folder / "accepted", repeats))
        try:
            with seaweedfs(folder / "s3") as server:
                ways[STORED] = asyncio.run(stored(folder / "stored", repeats, server))
        except ServerFailed as error:
            missing = f"{STORED}: {error}"
        ways[REPEATED] = asyncio.run(repeated(folder / "repeated", repeats))
    return ways, missing


@click.command("hops", short_help="Count the files that a request passes.")
@click.option("--repeats", type=click.IntRange(1, 20), default=3, show_default=True, help="Requests of each kind.")
@click.option("--names", is_flag=True, help="List the files, too.")
def hops(repeats: int, *, names: bool) -> None:
    """Count the product files and classes that a request passes, and the hops between files."""
    console = Console()
    ways, missing = count_hops(repeats)
    table = Table("request", "files", "classes", "hops")
    for request, way in ways.items():
        table.add_row(request, str(len(way.files)), str(len(way.classes)), str(way.hops))
    console.print(table)
    if names:
        for request, way in ways.items():
            console.print(f"[bold]{request}[/bold]", *sorted(way.files), sep="\n  ", highlight=False)
    if missing is not None:
        console.print(f"[yellow]Not counted:[/yellow] {missing}", highlight=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["--profiled"]:
        run_profiled()
    else:
        hops()

"""Giants for the proof that they need no memory: made as files, sent by other processes, and watched on their way."""

import asyncio
import base64
import gzip
import mmap
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import zstandard

from bench.calllogs import iter_call_log, make_call_log
from tests.system.gateway_process import GatewayProcess

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60.0
SEND_SECONDS = 900.0
PACE_SECONDS = 0.01
_CGROUPS = Path("/sys/fs/cgroup/memory")
_GROUP_OF_3 = 3 << 18
"""A multiple of three, so that pieces of base64 can be put one after the other."""


def make_giant(path: Path, size: int, *, call_id: str = "giant") -> Path:
    """A call log of `size` bytes in a file."""
    with path.open("wb") as file:
        file.writelines(iter_call_log(size, seed=1, call_id=call_id))
    return path


def _as_it_is(source: Path) -> Path:
    return source


def gzipped(source: Path) -> Path:
    """The file, gzipped."""
    target = source.with_suffix(".gz")
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
        while piece := plain.read(1 << 20):
            packed.write(piece)
    return target


def zstandard_of(source: Path) -> Path:
    """The file, as one zstd frame."""
    target = source.with_suffix(".zst")
    with source.open("rb") as plain, target.open("wb") as packed:
        zstandard.ZstdCompressor(level=1).copy_stream(plain, packed)
    return target


def enveloped(source: Path) -> Path:
    """The SDK's envelope around the file; `compressed` comes after `data`."""
    target = source.with_suffix(".envelope")
    with gzipped(source).open("rb") as packed, target.open("wb") as file:
        file.write(b'{"data": "')
        while piece := packed.read(_GROUP_OF_3):
            file.write(base64.b64encode(piece))
        file.write(b'", "compressed": true}')
    return target


@asynccontextmanager
async def giant_endpoint(folder: Path, *options: str) -> AsyncIterator[str]:
    """A process that takes requests of any size into `folder`; its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.system.giant_endpoint", str(folder), *options,
        cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            url = (await process.stdout.readline()).decode().strip()
        yield url
    finally:
        process.kill()
        await process.wait()


@dataclass(frozen=True)
class Way:
    """How a giant is sent: packed into a file, and as the body of which request."""

    name: str
    pack: Callable[[Path], Path] = _as_it_is
    method: str = "POST"
    path: str = "/dev/send-call-log"
    headers: tuple[str, ...] = ()


PLAIN = Way("plain")
UPLOADED = Way("upload", method="PUT", path="")
"""Its path is asked for."""
WAYS = (
    PLAIN,
    Way("envelope", enveloped),
    Way("gzip", gzipped, headers=("Content-Encoding:gzip",)),
    Way("zstd", zstandard_of, headers=("Content-Encoding:zstd",)),
    Way("batch", path="/v1/calls/batch"),
    UPLOADED,
)


async def send(gateway: GatewayProcess, file: Path, way: Way) -> dict[str, Any]:
    """What another process was answered that sent the file."""
    path = await _upload_path(gateway) if way is UPLOADED else way.path
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.system.giant_agent", gateway.intake_url.rpartition(":")[2], way.method, path,
        str(file), *way.headers, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SEND_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answer: dict[str, object] = msgspec.json.decode(output)
    return answer


async def _upload_path(gateway: GatewayProcess) -> str:
    """The path of an address that the gateway gives for the giant."""
    wanted = msgspec.json.encode({"call_id": "giant", "content_type": "application/json"})
    answer = await gateway.post(wanted, "/dev/get-upload-url")
    return str(answer.json["upload_url"]).removeprefix(gateway.intake_url)


@dataclass
class OtherAgent:
    """Posts 2 KB now and then, each over a connection of its own, and notes how long the answers took.

    Each is posted to `yardstick` too, a bare server that writes and syncs it: what a busy machine adds is in both.
    """

    url: str
    yardstick: str
    seconds: list[float] = field(default_factory=list)
    yardstick_seconds: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def posting(self) -> AsyncIterator[None]:
        """Post while the block runs, and at least twenty times."""
        ended = asyncio.Event()
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            task = asyncio.create_task(self._post(session, ended))
            try:
                yield
            finally:
                ended.set()
                await task

    async def _post(self, session: aiohttp.ClientSession, ended: asyncio.Event) -> None:
        while not ended.is_set() or len(self.seconds) < 20:
            number = len(self.seconds)
            body = make_call_log(2_000, seed=number, call_id=f"other-{number}")
            for url, seconds in ((self.url, self.seconds), (self.yardstick, self.yardstick_seconds)):
                started = time.perf_counter()
                async with session.post(url, data=body, headers={"Idempotency-Key": str(number)}) as answer:
                    assert answer.status in {200, 202}
                seconds.append(time.perf_counter() - started)
                await asyncio.sleep(PACE_SECONDS)


def p99(seconds: Sequence[float]) -> float:
    """What 99 of 100 took at most, in milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


@contextmanager
def memory_limit(limit: int) -> Iterator[tuple[str, ...]]:
    """A command prefix that holds what it runs to `limit` bytes, cached files included; empty where that cannot be.

    Only with version 1 control groups that this user may write.
    """
    group = _CGROUPS / f"callspool-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        yield ()
        return
    try:
        yield ("/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    finally:
        _remove(group)


def _remove(group: Path, deadline: float = 10.0) -> None:
    """Remove a control group once the last process in it, such as a child of a killed one, has ended."""
    ends_at = time.monotonic() + deadline
    while (group / "cgroup.procs").read_text() and time.monotonic() < ends_at:
        time.sleep(0.01)
    group.rmdir()


def assert_holds_all(posted: Path, core: Path, detail: Path) -> None:
    """Core and detail together hold each member of the posted call log as it came; the files are zstd."""
    members: dict[str, bytes | memoryview] = {}
    for path in (core, detail):
        plain = path.with_suffix(".plain")
        with path.open("rb") as packed, plain.open("wb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            while piece := reader.read(1 << 20):
                file.write(piece)
        members.update(_members(plain))
    for name, value in _members(posted).items():
        assert memoryview(members[name]) == memoryview(value), name


def _members(path: Path) -> dict[str, msgspec.Raw]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return msgspec.json.decode(mapped, type=dict[str, msgspec.Raw])

"""`callspool demo` and `callspool bench`: what a gateway does, shown and measured on one of the command's own.

`demo` posts three calls, kills the gateway and starts it again: nothing is lost. `bench` measures what this machine and
volume take: commits, and posts of three sizes.
"""

import asyncio
import io
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import click
import msgspec

from config.destinations import Destination, FileDestination, HttpDestination
from config.settings import LogLevel, LogSettings, Settings, ShutdownSettings, SpoolSettings
from gateway.chaos.harness import GatewayFailed, GatewayUnderTest, free_address
from gateway.chaos.oracle import make_post
from gateway.cli import Exit, FiniteRange
from gateway.cli.options import folder_beside, loaded_or_exit, spool_option
from gateway.cli.output import Tell, as_json, complain, json_option, output, plain, print_json, progress_bar, table
from gateway.diagnostics.machine import commit_latency
from gateway.formatting import bytes_text, count_text

JSON = {"Content-Type": "application/json"}


class OwnGateway:
    """A gateway in `folder`; the process is started, killed and stopped through `process`."""

    def __init__(self, folder: Path, destination: Destination, *, max_bytes: int | None = None) -> None:
        self.intake, self.admin = free_address(), free_address()
        settings = Settings()
        changed: dict[str, object] = {
            "intake": settings.intake.model_copy(update={"listen": self.intake}),
            "admin": settings.admin.model_copy(update={"listen": self.admin}),
            "spool": SpoolSettings(dir=folder / "spool", max_bytes=max_bytes),
            "log": LogSettings(level=LogLevel.WARNING),
            "shutdown": ShutdownSettings(deadline=1.0, quiet=0.0),
            "destinations": (destination,),
        }
        self.url = f"http://{self.intake}/v1/calls"
        self.log = folder / "gateway.log"
        self.process = GatewayUnderTest(settings.model_copy(update=changed), f"http://{self.admin}", self.log)


# `callspool demo`: three calls posted, the gateway killed and started again, nothing lost.

_SIZES = (None, None, 14_000_000)
"""Of what each call carries besides its head: two short ones, and one that is split."""
_DRAIN_SECONDS = 60.0


@click.command()
@json_option
def demo() -> None:
    """Show what callspool is for: post three calls, `kill -9` the gateway, start it again, and count what arrived.

    It runs a gateway of its own in a new folder, on free ports, and removes it; a gateway of yours is not touched.
    """
    with tempfile.TemporaryDirectory(prefix="callspool-demo-") as folder:
        arrived = asyncio.run(_demo(Path(folder)))
    if as_json():
        print_json({"posted": len(_SIZES), "arrived": arrived, "lost": len(_SIZES) - arrived})
    if arrived != len(_SIZES):
        complain(f"{len(_SIZES) - arrived} calls did not arrive: that is a defect, please report it.")
        raise SystemExit(Exit.FAILED)
    _say("nothing was lost", "3 calls posted, 3 delivered", "bold green")
    _say("", "Try it with yours: callspool run --local, then callspool post FILE", "dim")


async def _demo(folder: Path) -> int:
    """How many of the calls arrived."""
    delivered = folder / "delivered"
    gateway = OwnGateway(folder, FileDestination(name="folder", type="file", path=delivered))
    try:
        await gateway.process.start()
        _say("started", f"a gateway at {gateway.intake}, which delivers into a folder")
        async with aiohttp.ClientSession(trust_env=False) as session:
            for number, size in enumerate(_SIZES, 1):
                await _post(session, gateway, number, size)
        await gateway.process.kill()
        _say("killed", "kill -9, at once after the last 202", "bold red")
        before = _arrived(delivered)
        _say("", f"{before} of 3 calls had been delivered; the others are in the spool")
        await gateway.process.start()
        _say("started", "again, over the same spool")
        await gateway.process.drained(_DRAIN_SECONDS)
        return _arrived(delivered)
    except (GatewayFailed, aiohttp.ClientError) as error:
        complain(f"{error}.", hint=" ".join(gateway.log.read_text(errors="replace").split())[-500:])
        return _arrived(delivered)
    finally:
        await gateway.process.stop()


async def _post(session: aiohttp.ClientSession, gateway: OwnGateway, number: int, size: int | None) -> None:
    post = make_post(number, f"demo-{number}", "call_ended", size)
    began = time.perf_counter()
    async with session.post(gateway.url, data=io.BytesIO(post.body), headers=JSON) as answer:
        document = json.loads(await answer.read())
    took = 1000 * (time.perf_counter() - began)
    how = "core and detail" if document.get("upload_method") == "two_phase" else "in one piece"
    _say("posted", f"demo-{number}: {bytes_text(len(post.body))}, {answer.status} after {took:.0f} ms, {how}")


def _arrived(delivered: Path) -> int:
    """The calls of which all files are there: a split one has two."""
    calls = [folder for day in delivered.glob("*") for folder in day.glob("*")]
    whole = [folder for folder in calls if not any(folder.glob("*.core.json")) or any(folder.glob("*.detail.json.zst"))]
    return sum(any(folder.glob("*.json*")) for folder in whole)


def _say(what: str, about: str, style: str = "bold") -> None:
    if not as_json():
        output().print(plain(f"{what:<17} ", style).append(about, "not bold default"))


# `callspool bench`: what this machine and volume take, in 20 s: commits, and posts of three sizes.

LOADS = (("10 KB", 1_000, 16, 1), ("500 KB", 500_000, 4, 4), ("14 MB", 14_000_000, 2, 2))
"""Name, bytes of telemetry, agents at once, bodies that they take in turn."""
QUOTA_BYTES = 4 << 30
NOBODY = "http://127.0.0.1:9/send-call-log"
"""Nothing is delivered meanwhile: the intake alone is measured."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What posts of one size came to."""

    size: str
    agents: int
    posts: int
    posts_per_second: float
    bytes_per_second: float
    median_ms: float
    p99_ms: float
    refused: int


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    directory: str
    commit_median_ms: float
    commit_worst_ms: float
    loads: tuple[Load, ...]


@click.command()
@click.option(
    "--seconds", type=FiniteRange(1, 600), default=15.0, show_default=True, help="Total length of the measurement."
)
@json_option
@spool_option
def bench(file: Path | None, seconds: float) -> None:
    """Measure what this machine and the volume of the spool take: commits, and posts of 10 KB, 500 KB and 14 MB.

    A gateway of its own runs in a new folder beside the spool, on free ports; what it needs of the disk (4 GiB at most)
    is freed again. The agents run on this machine, too, and take a part of its CPU.
    """
    spool = loaded_or_exit(file, local=True, read_secrets=False).settings.spool.dir.absolute()
    folder = folder_beside(spool, "callspool-bench-")
    free = shutil.disk_usage(folder).free
    try:
        median, worst = commit_latency(folder)
        with progress_bar() as tell:
            loads = asyncio.run(_measured(folder, min(QUOTA_BYTES, free // 2), seconds / len(LOADS), tell))
    except* (GatewayFailed, aiohttp.ClientError, OSError) as errors:
        complain(f"The measurement failed: {str(errors.exceptions[0]) or 'a post took more than 60 s'}.")
        raise SystemExit(Exit.FAILED) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = Bench(directory=str(spool.parent), commit_median_ms=median, commit_worst_ms=worst, loads=loads)
    if as_json():
        print_json(found)
    else:
        _show(found)


async def _measured(folder: Path, quota: int, seconds: float, tell: Tell) -> tuple[Load, ...]:
    gateway = OwnGateway(folder, HttpDestination(name="nobody", type="http", url=NOBODY), max_bytes=quota)
    try:
        await gateway.process.start()
        loads: list[Load] = []
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(trust_env=False, timeout=timeout) as session:
            for number, load in enumerate(LOADS):
                tell("posting", number, len(LOADS))
                loads.append(await _one(session, gateway, load, seconds))
            tell("posting", len(LOADS), len(LOADS))
        return tuple(loads)
    finally:
        await gateway.process.kill()


async def _one(
    session: aiohttp.ClientSession, gateway: OwnGateway, load: tuple[str, int, int, int], seconds: float
) -> Load:
    """Post for so long, each agent one call log after the other."""
    name, size, agents, bodies = load
    made = [make_post(number, "CALL-ID", "call_ended", size).body for number in range(bodies)]
    took: list[float] = []
    refused = 0
    began = time.perf_counter()

    async def agent(number: int) -> None:
        nonlocal refused
        turn = 0
        while time.perf_counter() - began < seconds:
            body = made[turn % bodies].replace(b"CALL-ID", f"{name}-{number}-{turn}".encode(), 1)
            posted = time.perf_counter()
            async with session.post(gateway.url, data=io.BytesIO(body), headers=JSON) as answer:
                await answer.read()
            took.append(time.perf_counter() - posted)
            refused += answer.status >= 300
            turn += 1

    async with asyncio.TaskGroup() as group:
        for number in range(agents):
            group.create_task(agent(number))
    lasted, ordered = time.perf_counter() - began, sorted(took)
    return Load(
        size=name,
        agents=agents,
        posts=len(took),
        posts_per_second=(len(took) - refused) / lasted,
        bytes_per_second=(len(took) - refused) * len(made[0]) / lasted,
        median_ms=1000 * statistics.median(ordered),
        p99_ms=1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        refused=refused,
    )


def _show(found: Bench) -> None:
    numbers = ("Agents", "Posts /s", "MB /s", "Median", "99 %", "Refused")
    shown = table("Size", *numbers, numbers=numbers)
    for load in found.loads:
        shown.add_row(
            plain(load.size), plain(load.agents), plain(f"{load.posts_per_second:,.0f}"),
            plain(f"{load.bytes_per_second / 1e6:,.1f}"), plain(f"{load.median_ms:.0f} ms"),
            plain(f"{load.p99_ms:.0f} ms"), plain(count_text(load.refused), "yellow" if load.refused else ""),
        )  # fmt: skip
    output().print(
        plain(f"{found.directory}: a commit takes {found.commit_median_ms:.1f} ms, ", "bold").append(
            f"at worst {found.commit_worst_ms:.0f} ms"
        )
    )
    output().print(shown)
    largest = found.loads[-1]
    output().print(
        plain(
            f"Each 202 came after its commit. In an hour of outage it takes in "
            f"{bytes_text(round(3600 * largest.bytes_per_second))} of large call logs; `callspool size` says what disk "
            "yours need.",
            "dim",
        )
    )

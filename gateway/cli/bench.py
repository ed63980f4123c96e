"""`callspool bench`: what this machine and volume take, in 20 s: commits, and posts of three sizes."""

import asyncio
import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from gateway.cli.exits import Exit
from gateway.cli.options import loaded_or_exit, spool_option
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, progress_bar, table
from gateway.formatting import bytes_text, count_text

if TYPE_CHECKING:
    import aiohttp

    from gateway.cli.output import Tell
    from gateway.cli.own_gateway import OwnGateway

LOADS = (("10 KB", 1_000, 16, 1), ("500 KB", 500_000, 4, 4), ("14 MB", 14_000_000, 2, 2))
"""Name, bytes of telemetry, agents at once, bodies that they take in turn."""
QUOTA_BYTES = 4 << 30
JSON = {"Content-Type": "application/json"}
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
@click.option("--seconds", type=click.FloatRange(1, 600), default=15.0, show_default=True, help="In all.")
@json_option
@spool_option
def bench(file: Path | None, seconds: float) -> None:
    """Measure what this machine and the volume of the spool take: commits, and posts of 10 KB, 500 KB and 14 MB.

    A gateway of its own runs in a new folder beside the spool, on free ports; what it needs of the disk (4 GiB at most)
    is freed again. The agents run on this machine, too, and take a part of its CPU.
    """
    from gateway.chaos.harness import GatewayFailed  # noqa: PLC0415  # see `_measured`
    from gateway.diagnostics.machine import commit_latency  # noqa: PLC0415  # see `_measured`

    spool = loaded_or_exit(file, local=True, read_secrets=False).settings.spool.dir.absolute()
    there = spool.parent
    try:
        there.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(there).free
        folder = Path(tempfile.mkdtemp(prefix="callspool-bench-", dir=there))
    except OSError as error:
        complain(f"{there} cannot be written to: {error.strerror or error}.")
        raise SystemExit(Exit.FAILED) from None
    try:
        median, worst = commit_latency(folder)
        with progress_bar() as tell:
            loads = asyncio.run(_measured(folder, min(QUOTA_BYTES, free // 2), seconds / len(LOADS), tell))
    except GatewayFailed as error:
        complain(f"{error}.")
        raise SystemExit(Exit.FAILED) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = Bench(directory=str(there), commit_median_ms=median, commit_worst_ms=worst, loads=loads)
    if as_json():
        print_json(found)
    else:
        _show(found)


async def _measured(folder: Path, quota: int, seconds: float, tell: "Tell") -> tuple[Load, ...]:
    # The other commands start without loading a gateway and a client.
    import aiohttp  # noqa: PLC0415  # see above

    from config.destinations import HttpDestination  # noqa: PLC0415  # see above
    from gateway.cli.own_gateway import OwnGateway  # noqa: PLC0415  # see above

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
    session: "aiohttp.ClientSession", gateway: "OwnGateway", load: tuple[str, int, int, int], seconds: float
) -> Load:
    """Post for so long, each agent one call log after the other."""
    from gateway.chaos.oracle import make_post  # noqa: PLC0415  # see `_measured`

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
            async with session.post(
                gateway.url, data=io.BytesIO(body), headers={"Content-Type": "application/json"}
            ) as answer:
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

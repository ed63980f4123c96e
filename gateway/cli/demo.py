"""`callspool demo`: three calls posted, the gateway killed and started again, nothing lost. In a folder of its own."""

import asyncio
import io
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.exits import Exit
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json
from gateway.formatting import bytes_text

if TYPE_CHECKING:
    import aiohttp

    from gateway.cli.own_gateway import OwnGateway

_SIZES = (None, None, 14_000_000)
"""Of what each call carries besides its head: two short ones, and one that is split."""
_DRAIN_SECONDS = 60.0
JSON = {"Content-Type": "application/json"}


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
    import aiohttp  # noqa: PLC0415  # for this command alone

    from config.destinations import FileDestination  # noqa: PLC0415  # see above
    from gateway.chaos.harness import GatewayFailed  # noqa: PLC0415  # see above
    from gateway.cli.own_gateway import OwnGateway  # noqa: PLC0415  # see above

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
    except GatewayFailed as error:
        complain(f"{error}.", hint=gateway.log.read_text(errors="replace")[-500:])
        return _arrived(delivered)
    finally:
        await gateway.process.stop()


async def _post(session: "aiohttp.ClientSession", gateway: "OwnGateway", number: int, size: int | None) -> None:
    from gateway.chaos.oracle import make_post  # noqa: PLC0415  # see above

    post = make_post(number, f"demo-{number}", "call_ended", size)
    began = time.perf_counter()
    async with session.post(
        gateway.url, data=io.BytesIO(post.body), headers={"Content-Type": "application/json"}
    ) as answer:
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

"""A disk that fills up, and has room again."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from tests.disks.filesystems import remount, small_disk
from tests.system.gateway_process import GatewayProcess, Reply
from tests.system.preloaded_server import FULL_HEADROOM


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=24m") as folder:
        yield folder


def settings_on(disk: Path, endpoint: Endpoint) -> dict[str, str]:
    return {
        "CALLSPOOL_SPOOL_DIR": str(disk / "spool"),
        "CALLSPOOL_SPOOL_MAX_BYTES": "1GB",
        FULL_HEADROOM: "yes",
        "CALLSPOOL_ENDPOINT_URL": endpoint.url,
        "CALLSPOOL_ENDPOINT_TOKEN": "key",
    }


@pytest.mark.slow
async def test_a_full_disk_refuses_says_so_and_recovers_by_itself(tmp_path: Path, disk: Path) -> None:
    """Posts are answered 507 and kept by nobody, /readyz says why; with room again all that was accepted arrives."""
    async with Endpoint() as endpoint:
        await endpoint.stop()
        async with GatewayProcess(tmp_path / "gateway", settings_on(disk, endpoint)) as gateway:
            accepted = []
            for number in range(20):
                answer = await gateway.post(make_call_log(15_000_000, seed=number, call_id=f"call-{number}"))
                if answer.status == 507:
                    break
                assert answer.status == 202
                accepted.append(f"call-{number}")
            assert 2 <= len(accepted) < 20
            refused = await until_a_large_one_is_refused(gateway, disk, accepted)
            assert await gateway.ready() == 503
            remount(disk, "size=200m")
            await gateway.until_ready(deadline=60)
            assert (await gateway.post(make_call_log(15_000_000, seed=200, call_id="later"))).status == 202
            await endpoint.start()
            await endpoint.wait_for(2 * (len(accepted) + 1), deadline=60)
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
            assert all("disk is full" in told["reason"] for told in gateway.events("not_ready"))
            assert gateway.events("not_ready")
    arrived = {arrival.call_id for arrival in endpoint.accepted}
    assert arrived >= {*accepted, "later"}
    assert refused not in arrived


@pytest.mark.slow
async def test_a_gateway_on_a_full_disk_empties_itself_and_stops_in_time(tmp_path: Path, disk: Path) -> None:
    """With no byte free and a call open, what waits is delivered once, posts are taken again, and a stop is quick."""
    async with Endpoint() as endpoint:
        await endpoint.stop()
        async with GatewayProcess(tmp_path / "gateway", settings_on(disk, endpoint)) as gateway:
            accepted = [f"call-{number}" for number in range(30)]
            for call_id in accepted:
                assert (await gateway.post(make_call_log(300_000, seed=1, call_id=call_id))).status == 202
            started = make_call_log(2_000, seed=1, call_id="open", event="call_started")
            assert (await gateway.post(started)).status == 202
            fill_up(disk, "ballast")
            refused = await until_refused(gateway)
            assert refused.json["error"]["code"] == "disk_full"
            assert await gateway.ready() == 503
            await endpoint.start()
            await endpoint.wait_for(len(accepted) + 1, deadline=60)
            await gateway.delivered()
            await gateway.until_ready(deadline=60)
            assert {arrival.call_id for arrival in endpoint.accepted} >= {*accepted, "open"}
            assert len(endpoint.arrivals) == len(endpoint.documents), "something was delivered twice"
            endpoint.set_fault(Fault("status", 503))  # so that deliveries make no room for what is posted
            fill_up(disk, "more")
            await until_refused(gateway)
            endpoint.set_fault(Fault())
            with kept_full(disk):
                asked = time.monotonic()
                gateway.terminate()
                assert await gateway.ended() == 0
            assert time.monotonic() - asked < 15, "it waited for what it cannot take"


@pytest.mark.slow
async def test_a_disk_without_inodes_takes_what_needs_no_file(tmp_path: Path) -> None:
    """With room but no file to be made, small posts go on; a giant is refused until its file can be made."""
    giant = make_call_log(20_000_000, seed=1, call_id="giant")
    with small_disk(tmp_path / "disk", "size=200m,nr_inodes=64") as disk:
        async with Endpoint() as endpoint:
            settings = {
                "CALLSPOOL_SPOOL_DIR": str(disk / "spool"),
                "CALLSPOOL_ENDPOINT_URL": endpoint.url,
                "CALLSPOOL_ENDPOINT_TOKEN": "key",
                FULL_HEADROOM: "yes",
            }
            async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
                takers = take_all_inodes(disk)
                assert (await gateway.post(make_call_log(2_000, seed=1, call_id="small"))).status == 202
                refused = await gateway.post(giant)
                assert (refused.status, refused.json["error"]["code"]) == (507, "disk_full")
                for taker in takers:
                    taker.unlink()
                assert (await gateway.post(giant)).status == 202
                await gateway.delivered()
                assert await gateway.metric("callspool_unaccounted_records") == 0
    assert {arrival.call_id for arrival in endpoint.accepted} == {"small", "giant"}


def take_all_inodes(disk: Path) -> list[Path]:
    """Make empty files until there can be no more."""
    made: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            taker = disk / f"taker-{len(made)}"
            taker.touch(exist_ok=False)
            made.append(taker)
    assert os.statvfs(disk).f_favail == 0
    return made


def fill_up(disk: Path, name: str) -> None:
    """Let somebody else take all that is free, whatever the gateway takes or gives back meanwhile."""
    with (disk / name).open("ab") as ballast:
        size = ballast.tell()
        for _ in range(1000):
            free = shutil.disk_usage(disk).free
            if not free:
                return
            with contextlib.suppress(OSError):
                os.posix_fallocate(ballast.fileno(), size, free)
                size += free
    raise AssertionError("the disk was never full")


@contextlib.contextmanager
def kept_full(disk: Path) -> Iterator[None]:
    """Somebody else takes what is given back, as soon as it is."""
    over = threading.Event()

    def take() -> None:
        while not over.wait(0.01):
            fill_up(disk, "taken")

    taking = threading.Thread(target=take)
    taking.start()
    try:
        yield
    finally:
        over.set()
        taking.join()


async def until_a_large_one_is_refused(gateway: GatewayProcess, disk: Path, accepted: list[str]) -> str:
    """Fill the disk, and what the spool gives back after that; returns the call that found no room."""
    for number in range(20):
        fill_up(disk, f"ballast-{number}")
        await until_refused(gateway)
        call_id = f"large-{number}"
        reply = await gateway.post(make_call_log(15_000_000, seed=99 + number, call_id=call_id))
        if reply.status == 507:
            return call_id
        accepted.append(call_id)
    raise AssertionError("large call logs were always taken")


async def until_refused(gateway: GatewayProcess) -> Reply:
    """Post until the log of the spool has no room left either; returns what the refused one was told."""
    for number in range(500):
        reply = await gateway.post(make_call_log(100_000, seed=number, call_id=f"filling-{number}"))
        if reply.status == 507:
            return reply
    raise AssertionError("the disk was never full")

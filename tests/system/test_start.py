"""How a gateway starts, and why it may refuse to."""

import json
import os
import re
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import zstandard

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.system.acknowledged import acknowledged
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until


@pytest.mark.slow
async def test_a_spool_has_one_owner(tmp_path: Path) -> None:
    """On a spool that another gateway owns, it gives up after a while, says whose it is and what to do, and ends 1."""
    async with Endpoint() as endpoint, AsyncExitStack() as cleanup:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, "CALLSPOOL_SPOOL_DIR": str(tmp_path / "spool")}
        owner = await cleanup.enter_async_context(GatewayProcess(tmp_path / "owner", settings))
        other = GatewayProcess(tmp_path / "other", settings)
        cleanup.push_async_exit(other)
        await other.spawn()
        assert await other.ended(deadline=20) == 1
        (told,) = other.events("cannot_run")
        assert f"pid {owner.process.pid}" in told["reason"]
        assert "CALLSPOOL_SPOOL_DIR" in told["reason"]
        assert (await owner.post(make_call_log(2_000, seed=1))).status == 202


async def test_a_start_says_where_everything_is(tmp_path: Path) -> None:
    """The line that says that it runs names where to post, the page, the spool, and what is delivered where."""
    settings = {"CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/send-call-log?key=secret"}
    async with GatewayProcess(tmp_path / "gateway", settings, arguments=["--local"], preload=False) as gateway:

        async def says_so() -> bool:
            return bool(gateway.events("running"))

        await until(says_so, "it says that it runs")
    (running,) = gateway.events("running")
    assert running["post_to"] == f"{gateway.intake_url}/v1/calls"
    assert running["status_page"] == f"{gateway.admin_url}/"
    assert running["spool"] == str(gateway.spool)
    assert running["delivers"] == [
        "endpoint: http://127.0.0.1:9/send-call-log?key=*** (call logs, cores, details)",
        "local: ./callspool-data/delivered (call logs, cores, details)",
        "calls: ./callspool-data/calls.db (call logs, cores, details)",
    ]


@pytest.mark.parametrize("section", ["intake", "admin"])
async def test_a_port_in_use_names_the_setting_and_the_owner(tmp_path: Path, section: str) -> None:
    """A port that somebody else has is explained: which setting, and which process; the exit code is 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        variable = f"CALLSPOOL_{section.upper()}_LISTEN"
        gateway = GatewayProcess(tmp_path / "gateway", {variable: address}, arguments=["--local"])
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_exit(gateway)
            await gateway.spawn()
            assert await gateway.ended() == 1
    (why,) = gateway.events("cannot_run")
    assert f"{address} is already in use by " in why["reason"]
    assert f"(process {os.getpid()})" in why["reason"]
    assert f"{section}.listen ({variable})" in why["reason"]


async def test_a_second_callspool_is_told_of_the_first(tmp_path: Path) -> None:
    """Started twice, the second one says that another callspool has the address, and which process that is."""
    gateway = GatewayProcess(tmp_path / "first", arguments=["--local"], preload=False)
    async with gateway as first, AsyncExitStack() as cleanup:
        address = first.admin_url.removeprefix("http://")
        second = GatewayProcess(tmp_path / "second", {"CALLSPOOL_ADMIN_LISTEN": address}, arguments=["--local"])
        cleanup.push_async_exit(second)
        await second.spawn()
        assert await second.ended() == 1
        (why,) = second.events("cannot_run")
        assert f"already in use by another callspool (process {first.process.pid})" in why["reason"]


async def test_an_address_of_another_machine_names_the_setting(tmp_path: Path) -> None:
    """Whatever else the system says against an address is told with the setting that names it."""
    settings = {"CALLSPOOL_INTAKE_LISTEN": "192.0.2.1:7717"}
    gateway = GatewayProcess(tmp_path / "gateway", settings, arguments=["--local"])
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_exit(gateway)
        await gateway.spawn()
        assert await gateway.ended() == 1
    (why,) = gateway.events("cannot_run")
    assert why["reason"].startswith("cannot listen at 192.0.2.1:7717, which intake.listen (CALLSPOOL_INTAKE_LISTEN) ")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, ["CALLSPOOL_ENDPOINT_URL", "--local"]),
        (
            {"CALLSPOOL_ENDPOINT_URL": "ftp://host", "CALLSPOOL_SPOOL_MAX_BITES": "1"},
            ["CALLSPOOL_SPOOL_MAX_BYTES", "http"],
        ),
    ],
    ids=["nowhere to deliver to", "two mistakes"],
)
async def test_what_cannot_work_does_not_start(tmp_path: Path, environment: dict[str, str], told: list[str]) -> None:
    """Without a destination, or with wrong settings, it takes no posts, names what is to be set, and ends with 2."""
    gateway = GatewayProcess(tmp_path / "gateway", environment)
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_exit(gateway)
        await gateway.spawn()
        assert await gateway.ended() == 2
    assert [words for words in told if words not in gateway.log] == []
    assert not gateway.spool.exists()


async def test_the_first_try_needs_nothing_else(tmp_path: Path) -> None:
    """With --local, call logs land as files below callspool-data/delivered, large ones as core and packed detail, and
    calls can be asked for at once."""
    small, large = (make_call_log(size, seed=size, call_id=f"../{size}") for size in (2_000, 6_000_000))
    async with GatewayProcess(tmp_path / "gateway", arguments=["--local"]) as gateway:
        posted = [acknowledged(body, await gateway.post(body)) for body in (small, large)]
        await gateway.delivered()
        listed = await gateway.command("calls", "list", "--json", *gateway.admin)
        assert {call["call_id"] for call in json.loads(listed)} == {"../2000", "../6000000"}
    root = gateway.folder / "callspool-data" / "delivered"
    files = {file.name: file for file in root.rglob("*") if file.is_file()}
    names = [
        f"call_ended-{posted[0].uid}.json",
        *(f"call_ended-{posted[1].uid}.{end}" for end in ("core.json", "detail.json.zst")),
    ]
    assert sorted(files) == sorted(names)
    whole, core, detail = (files[name] for name in names)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", file.parents[1].name) for file in files.values())
    assert {file.parents[2] for file in files.values()} == {root}
    assert whole.parent != core.parent == detail.parent
    assert whole.read_bytes() == small
    assert b'"summary_metrics":' in core.read_bytes()
    with detail.open("rb") as stream:
        assert (
            b'"session_traces":' in zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True).read()
        )

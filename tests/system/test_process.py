"""What the world around the process does to it: signals, closed streams, a log that nobody reads, a terminal."""

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from gateway.process import signal_handling
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

F_SETPIPE_SZ = 1031
HARMLESS = {
    "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH",  # end nothing
    "SIGPIPE", "SIGXFSZ",  # ignored by Python
    "SIGKILL", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGSYS",  # cannot or must not be handled
    "SIGRTMIN", "SIGRTMAX",  # nobody sends these unasked
}  # fmt: skip


@pytest.fixture
def nothing_ignored() -> Iterator[None]:
    """Signals as at a terminal: under `nohup`, or behind a shell's `&`, a test run inherits some as ignored."""
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    inherited = [number for number in ignored if number not in {signal.SIGPIPE, signal.SIGXFSZ}]
    for number in inherited:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in inherited:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.usefixtures("nothing_ignored")
def test_no_signal_ends_the_process_without_a_drain() -> None:
    """Every signal whose default is the end is handled: it shuts down gracefully, or is ignored with a message."""
    named = {each for each in signal.valid_signals() if isinstance(each, signal.Signals)}
    assert {each.name for each in named} - HARMLESS == {each.name for each in signal_handling(at_a_terminal=False)}


@pytest.mark.usefixtures("nothing_ignored")
def test_a_lost_terminal_ends_a_program_and_is_a_reload_to_a_daemon() -> None:
    """SIGHUP shuts down only what was started at a terminal; what nohup ignores stays ignored."""
    assert signal_handling(at_a_terminal=True)[signal.SIGHUP]
    assert not signal_handling(at_a_terminal=False)[signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in signal_handling(at_a_terminal=True)
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_signals_drain_or_are_ignored(tmp_path: Path) -> None:
    """The signals of daemons are ignored with a message; SIGQUIT delivers what was accepted, and ends with 0."""
    async with Endpoint() as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, "CALLSPOOL_SHUTDOWN_QUIET": "100ms"}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            ignored = [signal.SIGUSR1, signal.SIGUSR2]
            for number in ignored:
                gateway.process.send_signal(number)

            async def logged() -> bool:
                return len(gateway.events("signal_ignored")) == len(ignored)

            await until(logged, "each is ignored with a message")
            assert (await gateway.post(make_call_log(2_000, seed=1))).status == 202
            gateway.process.send_signal(signal.SIGQUIT)
            assert await gateway.ended() == 0
            assert gateway.events("drained")[0]["left_in_spool"] == 0
        assert len(endpoint.accepted) == 1


@pytest.mark.parametrize(
    "closed", [*(pytest.param((number,), marks=pytest.mark.prove) for number in range(3)), (0, 1, 2)], ids=str
)
async def test_closed_standard_streams_are_no_trouble(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Started with closed streams it works, and the spool's files do not get their numbers."""
    redirections = " ".join(f"{number}>&-" if number else "0<&-" for number in closed)
    shell = ["sh", "-c", f'exec "$@" {redirections}', "sh"]
    async with GatewayProcess(tmp_path / "gateway", arguments=["--local"], prefix=shell) as gateway:
        assert (await gateway.post(make_call_log(2_000, seed=1))).status == 202
        links = Path(f"/proc/{gateway.process.pid}/fd")
        assert all(str((links / str(number)).readlink()) == os.devnull for number in closed)


async def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """With a full pipe at standard error, posts and health are answered, and the dropped messages are counted."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    shell = ["sh", "-c", f'exec "$@" 2>/proc/{os.getpid()}/fd/{writing}', "sh"]
    debug = {"CALLSPOOL_LOG_LEVEL": "debug"}
    try:
        async with GatewayProcess(tmp_path / "gateway", debug, arguments=["--local"], prefix=shell) as gateway:
            batch = b"".join(b'{"call_id": "%d-%s"}\n' % (number, b"x" * 500) for number in range(1_500))
            url = f"{gateway.intake_url}/v1/calls/batch"
            async with aiohttp.request("POST", url, data=batch) as response, asyncio.timeout(30):
                assert (await response.text()).count('"success":true') == 1_500
            assert (await asyncio.wait_for(gateway.post(make_call_log(2_000, seed=1)), 10)).status == 202
            assert await gateway.metric("callspool_log_messages_dropped_total") > 0
            found = bytearray()
            os.set_blocking(reading, False)

            async def reported() -> bool:
                with contextlib.suppress(BlockingIOError):
                    while piece := os.read(reading, 1 << 16):
                        found.extend(piece)
                return b"log_messages_dropped" in found

            await until(reported, "the log says how much is missing")
    finally:
        os.close(reading)
        os.close(writing)


async def test_readiness_knows_when_large_posts_cannot_come_in(tmp_path: Path) -> None:
    """Without a place to stage them /readyz says why; once it is mended, or merely removed, they are accepted again."""
    giant = make_call_log(20_000_000, seed=1)
    async with GatewayProcess(tmp_path / "gateway", arguments=["--local"]) as gateway:
        staging = gateway.spool / "staging"
        staging.rmdir()
        assert (await gateway.post(giant)).status == 202
        await until(lambda: has(gateway, files=0), "what was staged is removed")
        staging.rmdir()
        staging.write_bytes(b"")
        await gateway.until_ready(503)
        staging.unlink()
        await gateway.until_ready()


async def has(gateway: GatewayProcess, *, files: int) -> bool:
    return len(list((gateway.spool / "staging").iterdir())) == files


@contextlib.asynccontextmanager
async def terminal() -> AsyncIterator[tuple[int, int]]:
    master, slave = pty.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


async def test_at_a_terminal_the_start_says_where_everything_is(tmp_path: Path) -> None:
    """Where to post, where the page is, what is delivered where, where the spool lies, and how to stop it."""
    async with terminal() as (master, slave), Endpoint() as endpoint:
        process = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("callspool"), "run", "--local", cwd=tmp_path, stderr=slave,
            env={
                "CALLSPOOL_ENDPOINT_URL": f"{endpoint.url}?code=hush", "CALLSPOOL_INTAKE_LISTEN": "0.0.0.0:0",
                "CALLSPOOL_ADMIN_LISTEN": "127.0.0.1:0", "NO_COLOR": "1",
            },
        )  # fmt: skip
        text = bytearray()
        os.set_blocking(master, False)

        async def introduced() -> bool:
            with contextlib.suppress(BlockingIOError):
                text.extend(os.read(master, 1 << 16))
            return b"Ctrl-C stops it" in text

        try:
            await until(introduced, "it introduces itself", deadline=30)
        finally:
            process.kill()
            await process.wait()
    lines = text.decode().replace("\r", "")
    assert "Post call logs to  http://127.0.0.1:" in lines
    assert "Status page        http://127.0.0.1:" in lines
    assert f"Delivers to        endpoint: {endpoint.url}?code=*** (call logs, cores, details)" in lines
    assert "                   local: ./callspool-data/delivered (call logs, cores, details)" in lines
    assert "                   calls: ./callspool-data/calls.db (call logs, cores, details)" in lines
    assert "Ask about calls    callspool calls list" in lines
    assert "Spool              ./callspool-data/spool" in lines
    assert "hush" not in lines

"""The end of this process, and of children that were started with pipes."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest
import uvloop

from gateway.process import end_process, send_signal
from tests.processes import open_descriptors

FLOODING = "import os\nwhile True: os.write(1, bytes(1 << 20))"
ORDERLY = "import sys; sys.stdin.read(); print('the rest'); sys.exit(3)"
ENDED = "import sys; sys.exit(4)"


async def started(program: str) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", program, stdin=PIPE, stdout=PIPE)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_child_with_unread_output_is_ended_and_costs_no_descriptor(loop: str) -> None:
    """However much lies in its pipe: the pipe is closed with it, and its end is not waited for in vain."""

    async def ended() -> int:
        process = await started(FLOODING)
        assert process.stdout is not None
        await process.stdout.readexactly(1)
        await asyncio.wait_for(end_process(process), 30)
        assert process.returncode == -signal.SIGKILL
        return len(open_descriptors())

    async def both() -> None:
        first = await ended()  # what the loop opens for its first child stays
        assert await ended() == first

    if loop == "uvloop":
        uvloop.run(both())
    else:
        asyncio.run(both())


@pytest.fixture
async def watched_by_the_loop() -> AsyncIterator[None]:
    """The loop, and no thread, learns that a child has ended, as it is from Python 3.12."""
    if sys.version_info >= (3, 12):
        yield
        return
    policy = asyncio.get_event_loop_policy()
    before, watcher = policy.get_child_watcher(), asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    policy.set_child_watcher(watcher)
    yield
    policy.set_child_watcher(before)


@pytest.mark.usefixtures("watched_by_the_loop")
async def test_a_signal_does_not_hide_the_end_of_a_child(caplog: pytest.LogCaptureFixture) -> None:
    """A child that has ended, which its loop has not seen yet, is not reaped by a signal to it: its status is kept."""
    process = await started(ENDED)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222  # the loop is to stand still
    send_signal(process, signal.SIGTERM)
    assert await process.wait() == 4
    assert caplog.text == ""


async def test_a_child_may_end_by_itself_within_its_grace() -> None:
    """Its closed input tells it to; then its own status is there."""
    process = await started(ORDERLY)
    await asyncio.wait_for(end_process(process, grace=10), 30)
    assert process.returncode == 3


async def test_a_child_that_has_ended_is_no_trouble() -> None:
    """Also where something was written to it that it never read."""
    process = await started(ENDED)
    assert process.stdin is not None
    process.stdin.write(bytes(1 << 20))
    await process.wait()
    await end_process(process)
    await end_process(process)
    assert process.returncode == 4


async def test_another_reader_of_its_output_is_not_disturbed() -> None:
    """A coroutine that waits for an answer gets what came until the end."""
    process = await started("import time; print('x', flush=True); time.sleep(100)")
    assert process.stdout is not None
    reading = asyncio.create_task(process.stdout.readexactly(100))
    await asyncio.sleep(0)
    await asyncio.wait_for(end_process(process), 30)
    with pytest.raises(asyncio.IncompleteReadError):
        await reading


STOPPED = """
import asyncio, os, signal, sys
from gateway.process import on_signals, run_to_the_end

async def program():
    told_to_stop, hurried = asyncio.Event(), asyncio.Event()
    on_signals(told_to_stop, hurried, lambda: print("reload", flush=True), at_a_terminal=False)
    for sent, handled in ((signal.SIGTERM, told_to_stop), (signal.SIGINT, hurried)):
        os.kill(os.getpid(), sent)
        await asyncio.wait_for(handled.wait(), 30)
    return 7

class Module:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)

code = run_to_the_end(program())
for late in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    os.kill(os.getpid(), late)
last = Module()
sys.exit(code)
"""


def test_a_signal_in_the_last_moment_changes_nothing() -> None:
    """Whoever sends a second one when the loop is closed already, or the interpreter ends, gets the first one's exit
    code: a stop that was in order looks like one."""
    program = subprocess.run([sys.executable, "-c", STOPPED], check=False, capture_output=True, timeout=60)
    assert (program.returncode, program.stderr) == (7, b"")


DEEP = """
import asyncio, contextlib, sys
import msgspec
from gateway.process import run_to_the_end

async def program():
    for deep in (b"[" * 9_900 + b"]" * 9_900, b'{"a":' * 9_900 + b"1" + b"}" * 9_900):
        with contextlib.suppress(RecursionError):
            await asyncio.to_thread(msgspec.json.decode, deep)
    return 7

sys.exit(run_to_the_end(program()))
"""


def test_json_that_nests_deeply_ends_no_process_whatever_the_limit_of_its_stack() -> None:
    """From Python 3.13 on it is decoded, to 10,000 levels, and needs more stack than some systems give a thread."""
    small_stack = ["bash", "-c", 'ulimit -S -s 1024 && exec "$0" -c "$1"', sys.executable, DEEP]
    program = subprocess.run(small_stack, check=False, capture_output=True, timeout=60)
    assert (program.returncode, program.stderr) == (7, b"")

"""Starting, watching and stopping the servers that are measured."""

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from bench.environment import describe, file_system, on_disk
from bench.memory import PeakMemory, of_tree
from bench.processes import ServerFailed, answers, free_port, listens, run_python, server, wait_until
from bench.servers import bare

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def test_a_server_runs_until_the_block_ends(tmp_path: Path) -> None:
    """The bare handler is ready inside of the block, and gone after it."""
    with bare(tmp_path) as running:
        assert answers(running.intake_port, "/readyz")
        assert not answers(running.intake_port, "/unknown")
        assert listens(running.intake_port)
    assert running.process.poll() is not None
    assert not listens(running.intake_port)
    assert not answers(running.intake_port, "/readyz")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The message of the failure holds the end of the server's log."""
    command = [sys.executable, "-c", "raise SystemExit('no such disk')"]
    with (
        pytest.raises(ServerFailed, match=r"(?s)ended with status 1.*no such disk"),
        server(command, ready=lambda: False, log=tmp_path / "log"),
    ):
        pass


def test_a_server_that_ends_by_itself_makes_no_figures(tmp_path: Path) -> None:
    """A server that died while it was measured is a failure, whatever was measured."""
    with pytest.raises(ServerFailed, match="ended early"):
        _kill_while_measured(tmp_path / "log")


def _kill_while_measured(log: Path) -> None:
    with server(SLEEP, ready=log.exists, log=log) as process:
        process.kill()
        process.wait()


def test_a_server_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    """An error inside of the block leaves no process behind."""
    log = tmp_path / "log"
    with pytest.raises(ZeroDivisionError), server(SLEEP, ready=log.exists, log=log) as process:
        _ = 1 / 0
    assert process.poll() is not None


def test_settings_of_the_caller_do_not_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CALLSPOOL_ variable of the shell must not change what is measured."""
    monkeypatch.setenv("CALLSPOOL_MEMORY_BUDGET", "1MiB")
    log = tmp_path / "log"
    code = "import os, time; print(sorted(k for k in os.environ if 'CALLSPOOL' in k), flush=True); time.sleep(600)"
    environment = {"CALLSPOOL_SPOOL_DIR": "here"}

    def told() -> bool:
        return log.exists() and "]" in log.read_text()

    with server([sys.executable, "-c", code], ready=told, log=log, environment=environment):
        assert log.read_text().strip() == "['CALLSPOOL_SPOOL_DIR']"


def test_waiting_in_vain_names_what_was_waited_for() -> None:
    """A deadline that passes says what did not happen."""
    with pytest.raises(TimeoutError, match="until pigs fly"):
        wait_until(lambda: False, "pigs fly", 0.01)


def test_a_module_that_fails_tells_its_error() -> None:
    """The error of a measuring process reaches the person."""
    with pytest.raises(ServerFailed, match="--port"):
        run_python("bench.load", timeout=30)


def test_a_free_port_can_be_bound() -> None:
    """The port that is given out is free."""
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        assert listener.getsockname()[1] == port > 0


def test_the_peak_is_at_least_what_was_used_before(tmp_path: Path) -> None:
    """Memory that a child takes while it is watched shows in the peak, and the children's counts with it."""
    log = tmp_path / "log"
    code = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'import time; x = bytes([1]) * 80_000_000; "
        "print(1, flush=True); time.sleep(600)']); time.sleep(600)"
    )

    def grown() -> bool:
        return log.exists() and log.read_text().startswith("1")

    command = [sys.executable, "-c", code]
    with server(command, ready=log.exists, log=log) as process, PeakMemory(process.pid) as memory:
        try:
            wait_until(grown, "the child has its memory", 20)
            wait_until(lambda: memory.peak.resident > 80_000_000, "the peak shows it", 20)
        finally:
            os.kill(_child(process.pid), 9)
    assert memory.idle.resident < memory.peak.resident


def _child(pid: int) -> int:
    return psutil.Process(pid).children()[0].pid


def test_a_process_that_has_ended_uses_nothing() -> None:
    """Asking for the memory of a process that is gone is not an error."""
    assert of_tree(2**22 + 1).resident == 0


def test_the_environment_names_the_file_system(tmp_path: Path) -> None:
    """The report says on what the spools lay, and memory is not taken for a disk."""
    assert describe(tmp_path).file_system == file_system(tmp_path) != ""
    memory = Path("/dev/shm")
    if memory.is_dir():
        assert not on_disk(memory)

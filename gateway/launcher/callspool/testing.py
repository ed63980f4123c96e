"""A running gateway for the tests of an agent: `pytest_plugins = ["callspool.testing"]` in conftest.py.

    def test_my_agent(running_callspool):
        run_my_agent(post_to=running_callspool.url)
        assert running_callspool.wait_for("call-1")["call_ended_reason"] == "completed"

The gateway is the real one, in a process and a folder of its own, once for the session.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

_open = build_opener(ProxyHandler({})).open
_LOOK_SECONDS = 0.05


class RunningGateway:
    """A gateway that delivers into a folder. `url` is where an agent posts to, `sdk_url` where the Whispey SDK does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        intake, admin = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{intake}/v1/calls"
        self.sdk_url = f"http://127.0.0.1:{intake}/send-call-log"
        self.admin_url = f"http://127.0.0.1:{admin}"
        config = folder / "callspool.toml"
        config.write_text(
            f'[intake]\nlisten = "127.0.0.1:{intake}"\n[admin]\nlisten = "127.0.0.1:{admin}"\n'
            f'[spool]\ndir = "{folder / "spool"}"\n[shutdown]\ndeadline = 3.0\nquiet = 0.0\n'
            f'[[destinations]]\nname = "folder"\ntype = "file"\npath = "{folder / "delivered"}"\n'
        )
        others = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
        self._environment = {**others, "CALLSPOOL_CONFIG": str(config)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 30.0) -> None:
        """Start it, and wait until it accepts posts."""
        with (self._folder / "gateway.log").open("ab") as log:
            command = [sys.executable, "-m", "callspool", "run", "--json"]
            self._process = subprocess.Popen(command, env=self._environment, stderr=log, stdout=log)
        deadline = time.monotonic() + seconds
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the gateway did not start: see {self._folder / 'gateway.log'}")
            time.sleep(_LOOK_SECONDS)

    def kill(self) -> None:
        """`kill -9`: what it acknowledged is there after the next start."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def post(self, call_log: dict[str, Any]) -> dict[str, Any]:
        """Post a call log as an agent does; its acknowledgement."""
        data, headers = json.dumps(call_log).encode(), {"Content-Type": "application/json"}
        with _open(Request(self.url, data, headers), timeout=30) as answer:  # http, to this machine
            acknowledged: dict[str, Any] = json.load(answer)
            return acknowledged

    def delivered(self, call_id: str) -> list[dict[str, Any]]:
        """What arrived of a call so far: whole call logs and cores, the oldest first."""
        files = sorted(self._folder.glob(f"delivered/*/{call_id}/*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def wait_for(self, call_id: str, seconds: float = 10.0) -> dict[str, Any]:
        """The newest of a call, once something of it was delivered. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while not (found := self.delivered(call_id)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing of call {call_id} was delivered within {seconds:g} s")
            time.sleep(_LOOK_SECONDS)
        return found[-1]

    def _is_ready(self) -> bool:
        try:
            with _open(f"{self.admin_url}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)


@pytest.fixture(scope="session")
def running_callspool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that accepts posts and delivers into a folder, for the whole session."""
    gateway = RunningGateway(tmp_path_factory.mktemp("callspool"))
    gateway.start()
    yield gateway
    gateway.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

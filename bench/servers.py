"""The servers that are measured, each started as a process of its own."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.processes import answers, free_port, listens, server


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready for posts."""

    process: subprocess.Popen[bytes]
    intake_port: int
    admin_port: int

    def resume(self) -> bool:
        """Have callspool try its endpoint at once. False where it waits for nothing, or does not know of it yet."""
        url = f"http://127.0.0.1:{self.admin_port}/api/destinations/endpoint/resume"
        order = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"})
        with urllib.request.urlopen(order, timeout=10) as answer:
            return bool(json.load(answer)["waited"])


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Running]:
    """The ceiling: an aiohttp handler that reads the body and answers."""
    port = free_port()
    command = [sys.executable, "-m", "bench.ceiling", "--port", str(port)]
    with server(command, ready=lambda: answers(port, "/readyz"), log=folder / "bare.log") as process:
        yield Running(process, port, port)


@contextlib.contextmanager
def callspool(folder: Path, *, endpoint_port: int, settings: Mapping[str, str] | None = None) -> Iterator[Running]:
    """The gateway with its default settings and one endpoint, its spool in this folder; `settings` are added.

    Nothing needs to listen on the endpoint's port: then everything that is acknowledged stays in the spool.
    """
    intake_port, admin_port = free_port(), free_port()
    environment = {
        "CALLSPOOL_SPOOL_DIR": str(folder / "spool"),
        "CALLSPOOL_INTAKE_LISTEN": f"127.0.0.1:{intake_port}",
        "CALLSPOOL_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
        "CALLSPOOL_ENDPOINT_URL": f"http://127.0.0.1:{endpoint_port}/dev/send-call-log",
        "CALLSPOOL_ENDPOINT_TOKEN": "bench-token",
        **(settings or {}),
    }
    command = [str(Path(sys.executable).with_name("callspool")), "run"]
    log = folder / "callspool.log"
    with server(command, ready=lambda: answers(admin_port, "/readyz"), log=log, environment=environment) as process:
        yield Running(process, intake_port, admin_port)


@contextlib.contextmanager
def endpoint(folder: Path, port: int) -> Iterator[Path]:
    """The endpoint that records are delivered to; yields the journal of what arrived at it."""
    journal = folder / "journal.jsonl"
    journal.touch()
    command = [sys.executable, "-m", "bench.endpoint", "--port", str(port), "--journal", str(journal)]
    with server(command, ready=lambda: listens(port), log=folder / "endpoint.log"):
        yield journal

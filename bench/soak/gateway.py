"""The gateway that is soaked: started, stopped, killed and asked as its operator would."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.processes import ServerFailed, answers, free_port, wait_until

DASHBOARD = "dashboard"
LOG = "callspool.log"
READY_SECONDS = 60.0
END_SECONDS = 60.0
_JSON = {"Content-Type": "application/json"}
_ASK = aiohttp.ClientTimeout(total=15)

_CONFIGURATION = """
[spool]
dir = "{spool}"
max_bytes = "8GiB"
[intake]
listen = "127.0.0.1:{intake}"
progress_timeout = "2s"
[admin]
listen = "127.0.0.1:{admin}"
[shutdown]
deadline = "5s"
quiet = "500ms"
[[destinations]]
name = "{dashboard}"
type = "http"
url = "{endpoint}"
when_too_large = ["presigned"]
retry = {{ initial = "200ms", max = "2s" }}
"""
"""Short waits, so that one run sees many outages begin and end."""

_BUCKET = """
[[destinations]]
name = "archive"
type = "s3"
bucket = "{bucket}"
endpoint_url = "{url}"
region = "us-east-1"
retry = {{ initial = "200ms", max = "2s" }}
"""


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A bucket that gets everything, besides the endpoint; credentials are in this process's environment."""

    name: str
    url: str


@dataclass
class Gateway:
    """`callspool run` in a folder of its own; the same ports through all restarts."""

    folder: Path
    endpoint_url: str
    bucket: BucketAddress | None
    intake_port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    starts: int = 0

    def __post_init__(self) -> None:
        self.spool = self.folder / "spool"
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = self.folder / "callspool.toml"
        bucket = _BUCKET.format(bucket=self.bucket.name, url=self.bucket.url) if self.bucket else ""
        self._configuration.write_text(
            _CONFIGURATION.format(
                spool=self.spool,
                intake=self.intake_port,
                admin=self.admin_port,
                dashboard=DASHBOARD,
                endpoint=self.endpoint_url,
            )
            + bucket
        )

    @property
    def pid(self) -> int | None:
        """The present process; None while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def start(self) -> None:
        """Start it and wait until it takes posts. Raises `ServerFailed` with the end of its log."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
        command = [str(Path(sys.executable).with_name("callspool")), "run", "--config", str(self._configuration)]
        log = self.folder / LOG
        with log.open("ab") as output:
            self._process = process = subprocess.Popen(  # noqa: ASYNC220 - a start takes a millisecond, and is rare
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=inherited, cwd=self.folder
            )

        def ready() -> bool:
            if process.poll() is not None:
                raise ServerFailed(f"callspool ended with status {process.returncode}:\n{log.read_text()[-2000:]}")
            return answers(self.admin_port, "/readyz")

        await asyncio.to_thread(wait_until, ready, "callspool is ready", READY_SECONDS)
        self.starts += 1

    async def stop(self) -> int | None:
        """SIGTERM; returns the exit status, -9 where it had to be killed, or None when there was no process."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int | None:
        if self._process is None:
            return None
        self._process.send_signal(number)
        try:
            return await asyncio.to_thread(self._process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)


class Operator:
    """Asks the admin API of a gateway; what a gateway that is gone cannot answer is None."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def text(self, path: str) -> str | None:
        """What this path answers with 200."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.get(self._url + path, timeout=_ASK) as answer:
                if answer.status == 200:
                    return await answer.text()
        return None

    async def replay(self) -> int:
        """Send all dead letters again; how many there were."""
        done, cursor = 0, None
        while True:
            step = await self._post("/api/orders/replay", {"select": {}, "cursor": cursor})
            if step is None:
                return done
            done += int(str(step["done"]))
            cursor = step["cursor"]
            if cursor is None:
                return done

    async def resume(self) -> None:
        """Try the dashboard at once, whatever it waits for."""
        await self._post(f"/api/destinations/{DASHBOARD}/resume", {})

    async def _post(self, path: str, body: Mapping[str, object]) -> dict[str, object] | None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(self._url + path, json=body, headers=_JSON, timeout=_ASK) as answer:
                if answer.status == 200:
                    told: dict[str, object] = await answer.json()
                    return told
        return None


def metric(text: str, name: str) -> float:
    """The sum of a metric over all its labels."""
    lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)

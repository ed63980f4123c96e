"""A gateway as its users run it: `callspool run`, a process of its own, told everything by variables.

It is ended by a second SIGTERM, so that it leaves by itself and whatever measures it can write its results; only what
a test kills, and what does not end, gets SIGKILL.
"""

import asyncio
import io
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.system import preloaded
from tests.system.preloaded import PROGRAM
from tests.system.waiting import until

READY_SECONDS = 90.0
END_SECONDS = 90.0


# Ports on loopback that stay ours while nothing listens on them: a killed gateway starts again on the same.


class ReservedPort:
    """A port that is bound and never listened on, until `close`.

    Who sets SO_REUSEADDR, as every server does, can listen on it all the same; the kernel gives it to nobody who asks
    for any free port, and connecting to it is refused as long as no server listens.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


@dataclass(frozen=True)
class Reply:
    """What an agent was answered."""

    status: int
    json: Any
    headers: Mapping[str, str]


class GatewayProcess:
    """One gateway: its folder with spool and log, its two ports, and the process while there is one.

    `environment` and `arguments` are added to what every start needs; they may be changed between starts. `settings` is
    the text of its configuration file; `configure` writes another one. `prefix` is a command that replaces itself by
    the one that its arguments are; `program` is what `callspool` is called by. Without either it is forked from a
    process that has the code already, unless `preload` is false.
    """

    SUBCOMMAND = "run"

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        settings: str | None = None,
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
        program: Sequence[str | Path] = (PROGRAM,),
        preload: bool = True,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.spool = folder / "spool"
        self.environment = dict(environment or {})
        if settings is not None:
            self.configure(settings)
        self.arguments = tuple(arguments)
        self._command = (*prefix, *program)
        self._preload = preload and self._command == (PROGRAM,)
        self._log = folder / "gateway.log"
        self._intake, self._admin = ReservedPort(), ReservedPort()
        self._process: preloaded.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    def configure(self, settings: str) -> None:
        """Write its configuration file, for the next start or reload."""
        file = self.folder / "callspool.toml"
        file.write_text(settings, encoding="utf-8")
        self.environment["CALLSPOOL_CONFIG"] = str(file)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._give_back()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self.alive:
                await self.hurry()
        finally:
            await self._give_back()

    # The process -----------------------------------------------------------------------------------------------

    @property
    def process(self) -> preloaded.Process:
        """The present process, or the last one."""
        assert self._process is not None, "it was never started"
        return self._process

    @property
    def alive(self) -> bool:
        """Whether a process runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and wait until it takes posts; raises `AssertionError` with its log if it ends before that."""
        await self.spawn()
        await until(self._ready_or_dead, "the gateway is ready", deadline=READY_SECONDS)
        assert self.alive, f"it ended with status {self.process.returncode}:\n{self.log}"

    async def spawn(self) -> None:
        """Start it and wait for nothing."""
        assert not self.alive, "it runs already"
        environment = self._whole_environment()
        with self._log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            if self._preload:
                self._process = await preloaded.start(
                    (self.SUBCOMMAND, *self.arguments),
                    environment=environment, folder=self.folder, streams=(nothing, output, output),
                )  # fmt: skip
                return
            self._process = await asyncio.create_subprocess_exec(
                *self._command, self.SUBCOMMAND, *self.arguments, cwd=self.folder, env=environment,
                stdin=nothing, stdout=output, stderr=output,
            )  # fmt: skip

    async def kill(self) -> None:
        """SIGKILL: it can do nothing about it. Returns when the process is gone."""
        if self.alive:
            self.process.kill()
        if self._process is not None:
            await self._process.wait()

    def terminate(self) -> None:
        """SIGTERM, as whoever runs containers or services sends it."""
        self.process.send_signal(signal.SIGTERM)

    async def hurry(self) -> int:
        """Two SIGTERMs: end at once, leaving what is undelivered. Returns the exit code."""
        self.terminate()
        await until(self._stopping_or_dead, "the gateway is stopping")
        if self.alive:
            self.terminate()
        return await self.ended()

    async def ended(self, deadline: float = END_SECONDS) -> int:
        """Wait until it ended by itself; returns the exit code."""
        async with asyncio.timeout(deadline):
            return await self.process.wait()

    @property
    def log(self) -> str:
        """All that its processes wrote to standard output and standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The logged messages of this name, in order."""
        lines = [json.loads(line) for line in self.log.splitlines()]
        return [line for line in lines if line["event"] == name]

    def starts(self) -> list[float]:
        """When, by `time.monotonic()`, each of its processes began to open its spool; before, it sent nothing."""
        to_monotonic = time.monotonic() - time.time()
        times = (datetime.fromisoformat(line["timestamp"]) for line in self.events("starting"))
        return [moment.timestamp() + to_monotonic for moment in times]

    # What an agent does ----------------------------------------------------------------------------------------

    @property
    def intake_url(self) -> str:
        """Where agents post to."""
        return f"http://127.0.0.1:{self._intake.number}"

    async def post(
        self, body: bytes | Mapping[str, object], path: str = "/v1/calls", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Post a call log over a connection of its own, as the SDK does. Raises what the connection raises."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
        async with self._client().post(self.intake_url + path, data=io.BytesIO(data), headers=sent) as response:
            return Reply(response.status, await response.json(), response.headers)

    async def send(self, body: bytes, path: str, headers: Mapping[str, str], *, method: str = "POST") -> int:
        """The status of a request with whatever answer. Raises what the connection raises."""
        status, _ = await self.answer_to(body, path, headers, method=method)
        return status

    async def answer_to(
        self, body: bytes, path: str, headers: Mapping[str, str], *, method: str = "POST"
    ) -> tuple[int, bytes]:
        """Status and body of the answer, whatever it is. Raises what the connection raises."""
        sent = {"Connection": "close", **headers}
        async with self._client().request(
            method, self.intake_url + path, data=io.BytesIO(body), headers=sent
        ) as response:
            return response.status, await response.read()

    @property
    def operators_environment(self) -> dict[str, str]:
        """What an operator's command line needs to be let in by the admin listener."""
        return {**os.environ, "CALLSPOOL_SPOOL_DIR": str(self.spool)}

    # What an operator sees -------------------------------------------------------------------------------------

    async def command(self, *arguments: str) -> bytes:
        """What the command line prints for its operator."""
        environment = {**self.operators_environment, **self.environment}
        code, out = await preloaded.run(*arguments, environment=environment)
        assert code == 0, out.decode()
        return out

    @property
    def admin(self) -> tuple[str, str]:
        """The option that names its admin listener to a command."""
        return ("--admin", self.admin_url.removeprefix("http://"))

    @property
    def admin_url(self) -> str:
        """Where operators ask."""
        return f"http://127.0.0.1:{self._admin.number}"

    async def ready(self) -> int | None:
        """The status of /readyz; None when nothing answers."""
        try:
            async with self._client().get(self._admin_url("/readyz")) as response:
                return response.status
        except aiohttp.ClientError:
            return None

    async def until_ready(self, status: int = 200, *, deadline: float = READY_SECONDS) -> None:
        """Wait until /readyz has this status."""

        async def answers() -> bool:
            return await self.ready() == status

        await until(answers, f"/readyz answers {status}", deadline=deadline)

    async def status(self) -> Any:
        """The status document."""
        async with self._client().get(self._admin_url("/api/status")) as response:
            return await response.json()

    async def destination(self) -> Any:
        """The status of the only destination."""
        (destination,) = (await self.status())["destinations"]
        return destination

    async def trace(self, call_id: str) -> Any:
        """What came of the records of a call."""
        async with self._client().get(self._admin_url(f"/api/calls/{call_id}")) as response:
            return (await response.json())["records"]

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        async with self._client().get(self._admin_url("/metrics")) as response:
            lines = (await response.text()).splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
        return float(value)

    async def delivered(self, *, deadline: float = 30.0) -> None:
        """Wait until nothing is queued any more, for any destination."""
        await until(self._nothing_queued, "everything is delivered", deadline=deadline)

    # ------------------------------------------------------------------------------------------------------------

    async def _give_back(self) -> None:
        await self.kill()
        if self._session is not None:
            await self._session.close()
        self._intake.close()
        self._admin.close()

    def _admin_url(self, path: str) -> str:
        return self.admin_url + path

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))
        return self._session

    def _whole_environment(self) -> dict[str, str]:
        """What this machine sets for callspool, and its proxies, have no part in a test."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CALLSPOOL_") and not name.lower().endswith("_proxy")
        }
        own = {
            "CALLSPOOL_SPOOL_DIR": str(self.spool),
            "CALLSPOOL_INTAKE_LISTEN": f"127.0.0.1:{self._intake.number}",
            "CALLSPOOL_ADMIN_LISTEN": f"127.0.0.1:{self._admin.number}",
        }
        return inherited | own | self.environment

    async def _ready_or_dead(self) -> bool:
        return not self.alive or await self.ready() == 200

    async def _stopping_or_dead(self) -> bool:
        return not self.alive or await self.ready() == 503

    async def _nothing_queued(self) -> bool:
        destinations = (await self.status())["destinations"]
        return not any(lane["queued"] for destination in destinations for lane in destination["lanes"])

"""What the tests of the command line share: an environment without our variables, and a running admin listener."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from click.testing import CliRunner, Result

from gateway.cli import client, main
from tests.admin.admin_app import LOCAL_TOKEN, SpoolAdmin, spool_admin
from tests.loop_thread import LoopThread, Made

Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_log_of_servers() -> Iterator[None]:
    """Servers of the tests run in this process: what they log is not what a command prints."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def no_variables_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "local_token", lambda: LOCAL_TOKEN)
    for name in list(os.environ):
        if name.startswith("CALLSPOOL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def cli() -> Cli:
    """Runs a command within this process."""

    def run(*arguments: str, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), env=env, input=stdin)

    return run


def rows(text: str) -> list[str]:
    """The lines of a table, columns apart by one blank."""
    return [" ".join(line.split()) for line in text.splitlines()]


class Server(LoopThread):
    """A real server in a thread of its own, for commands that block."""

    def __init__(self) -> None:
        super().__init__()
        self._runners: list[web.AppRunner] = []
        self._contexts = AsyncExitStack()

    def serve(self, app: web.Application, port: int = 0) -> str:
        """Serves an application; returns its HOST:PORT."""
        return self.run(self._serve(app, port))

    def enter(self, context: AbstractAsyncContextManager[Made]) -> Made:
        """What the context gives, on the server's own loop, until the server is closed."""
        return self.run(self._contexts.enter_async_context(context))

    async def _serve(self, app: web.Application, port: int) -> str:
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self._runners.append(runner)
        host, port = runner.addresses[0][:2]
        return f"{host}:{port}"

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await self._contexts.aclose()

    def close(self) -> None:
        self.run(self._stop())
        super().close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture
def admin(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpoolAdmin:
    """The admin listener of a spool, which the commands find by their environment."""
    made = server.enter(spool_admin(tmp_path / "spool", SpoolAdmin))
    monkeypatch.setenv("CALLSPOOL_ADMIN_LISTEN", server.serve(made.app))
    return made

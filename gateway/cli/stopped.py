"""Commands about a spool whose gateway is stopped: its admin API is served within the command itself.

The spool is opened as a gateway opens it, so that orders are carried out by the same code and stand in the spool when
the next gateway starts. Nothing is accepted or delivered meanwhile. It takes half a second more than asking a gateway.
"""

import asyncio
import os
import sqlite3
import tempfile
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import structlog

from config.layers import InvalidConfiguration
from config.loader import Loaded, load
from config.settings import Settings
from gateway.runtime.lifecycle import Gateway
from spool.db.connection import newest_version
from spool.directory import DATABASE_NAME, is_owned
from spool.errors import SpoolError


class CannotOpen(Exception):
    """The spool is not to be opened by this command; the message says why, and what to do."""


def settings_of(file: Path | None, environment: Mapping[str, str]) -> Settings | None:
    """The settings that a gateway would run with here, `--local` or not; None where they are wrong."""
    for local in (False, True):
        try:
            return load(file, environment, local=local, read_secrets=False).settings
        except InvalidConfiguration:
            continue
    return None


def spool_to_open(settings: Settings) -> Path | None:
    """The spool, where there is one that no gateway owns. Raises `CannotOpen` where opening it would do harm."""
    directory = settings.spool.dir.absolute()
    database = directory / DATABASE_NAME
    try:
        if not database.exists() or is_owned(directory):
            return None
    except (OSError, SpoolError):
        return None
    owner = database.stat().st_uid
    if owner != os.geteuid():
        raise CannotOpen(f"no gateway runs, and the spool in {directory} belongs to user id {owner}: be that user")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.Error as error:
            raise CannotOpen(f"no gateway runs, and the database in {directory} cannot be read: {error}") from error
    if version != newest_version():
        raise CannotOpen(
            f"no gateway runs, and the spool in {directory} has schema version {version}, this callspool "
            f"{newest_version()}: start the gateway, which brings it up to date"
        )
    return directory


class StoppedGateway:
    """Serves the admin API of a stopped gateway at a Unix socket of its own, from a thread, until it is closed."""

    def __init__(self, settings: Settings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="callspool-")
        self.socket = Path(self._folder.name) / "admin.sock"
        self._settings = settings
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="stopped-gateway", daemon=True)

    def start(self) -> None:
        """Serve. Raises `CannotOpen`."""
        # What a gateway logs at its start is not what a command prints.
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self.close()
            raise CannotOpen(f"no gateway runs, and the spool cannot be opened: {self._failure}")

    def close(self) -> None:
        """Give the spool back."""
        if self._loop is not None and self._done is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()
        self._folder.cleanup()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        try:
            loaded = Loaded(self._settings, {}, ())
            async with Gateway(loaded, lambda: loaded).stopped(self.socket):
                self._started.set()
                await self._done.wait()
        except Exception as error:  # noqa: BLE001  # the command that waits for it says what it is
            self._failure = error
        finally:
            self._started.set()

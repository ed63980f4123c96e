"""A few connections to PostgreSQL, made when they are needed, and the translation of psycopg's errors."""

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from uploaders.stores.store import PartRefused, StoreError, StoreRefused, StoreUnavailable

Connection: TypeAlias = "AsyncConnection[tuple[Any, ...]]"

CONNECT_SECONDS: Final = 10
_VALUE_CLASSES: Final = {"22", "23", "54"}
"""Data exceptions, constraints, limits of the program: the value is at fault."""
_SETUP_CLASSES: Final = {"28", "3D", "3F", "42", "0A"}
"""Authorization, a database or schema that is not there, tables and grants that are missing."""
_ADVICE: Final = {
    "42501": "; `callspool check-config --probe` says what to grant this role",
    "42P01": "; run `callspool store migrate`",
}

_REFUSED_CONNECTIONS: Final = {
    "pg_hba.conf": "; let pg_hba.conf admit this user from this host",
    "too many": "; raise the limit of connections, or lower `pool`",
    "connection slots": "; raise max_connections, or lower `pool`",
    "authentication failed": "; check user and password in the address",
    'database "': "; create the database, or correct its name in the address",
    'role "': "; check the user in the address",
}
"""What somebody must do, by words of the reason; the first one that fits counts."""


class ConnectionPool:
    """At most `size` connections to the database that `url` names. Raises `StoreError` instead of psycopg's errors."""

    def __init__(self, url: str, size: int, statement_timeout: float) -> None:
        self._url = url
        # The frames of a detail come as slowly as a bandwidth lets them: its transaction is idle in between.
        self._settings = (
            f"-c statement_timeout={round(statement_timeout * 1000)} -c idle_in_transaction_session_timeout=0 "
            "-c timezone=UTC"
        )
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for the block alone, which begins its own transactions. After an error it is not used again."""
        async with self._free:
            try:
                connection = await self._idle_one() or await self._connect()
                try:
                    yield connection
                except BaseException:
                    # Whatever state it is in, a new one is in a better one.
                    with suppress(psycopg.Error):
                        await connection.close()
                    raise
            except (psycopg.Error, UnicodeEncodeError, OverflowError) as error:
                raise translate(error) from error
            self._idle.append(connection)

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator[Connection]:
        """A connection besides those of the pool, for what keeps it for long and asks the pool meanwhile."""
        try:
            async with await self._connect() as connection:
                yield connection
        except (psycopg.Error, UnicodeEncodeError) as error:
            raise translate(error) from error

    async def close(self) -> None:
        """Close what is idle: everything, once nobody uses a connection."""
        while self._idle:
            await self._idle.pop().close()

    async def _idle_one(self) -> "Connection | None":
        """One that the server, or whatever lies between, has not closed meanwhile: a restart fails no statement."""
        while self._idle:
            connection = self._idle.pop()
            if _is_open(connection):
                return connection
            await connection.close()
        return None

    async def _connect(self) -> Connection:
        given = conninfo_to_dict(self._url)
        options = f"{self._settings} {given.get('options') or ''}"  # what the address sets wins
        timeout = given.get("connect_timeout") or CONNECT_SECONDS
        name = given.get("application_name") or "callspool"
        info = make_conninfo(self._url, options=options, connect_timeout=timeout, application_name=name)
        connection: Connection = await AsyncConnection.connect(info, autocommit=True)
        return connection


def _is_open(connection: Connection) -> bool:
    """Whether the other side has said nothing: to a connection that is idle it says only that it is closed."""
    waiting = select.poll()
    waiting.register(connection.pgconn.socket, select.POLLIN)
    return not waiting.poll(0)


def translate(error: Exception) -> StoreError:
    """The store's error for one of psycopg's. Only the primary message is kept: the others quote documents."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        kind = error.sqlstate[:2]
        message = f"PostgreSQL: {error.diag.message_primary} ({error.sqlstate})"
        if kind in _VALUE_CLASSES:
            return PartRefused(message)
        if kind in _SETUP_CLASSES:
            return StoreRefused(message + _ADVICE.get(error.sqlstate, ""))
        return StoreUnavailable(message)
    if isinstance(error, psycopg.DataError | UnicodeEncodeError | OverflowError):
        return PartRefused(f"PostgreSQL refuses a value: {type(error).__name__}")
    return StoreUnavailable(_of_connecting(_first_line(error)))


def _of_connecting(said: str) -> str:
    """A server that refuses a connection gives the client no code, only a text in its language."""
    _, refused, reason = said.partition("FATAL:  ")
    if not refused:
        return f"PostgreSQL cannot be reached: {said}"
    advice = next((advice for words, advice in _REFUSED_CONNECTIONS.items() if words in reason), "")
    return f"PostgreSQL refuses the connection: {reason}{advice}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

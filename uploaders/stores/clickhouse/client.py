"""A client of ClickHouse that connects when it is needed, and the translation of its errors."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DataError, Error, OperationalError

from uploaders.stores.clickhouse import sql
from uploaders.stores.store import PartRefused, StoreError, StoreRefused, StoreUnavailable

CONNECT_SECONDS: Final = 10
_SETTINGS: Final = {
    "max_query_size": 64 << 20,  # the keys of a batch are part of the statement
    "max_insert_threads": 1,
    "async_insert": 0,  # an insert is durable when it is answered
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "join_use_nulls": 0,
}
_REFUSED_VALUES: Final = {6, 27, 53, 69, 70, 117, 131, 321}
"""Texts that cannot be parsed, types that do not fit, incorrect data, strings that are too large: the value's fault."""
_SET_UP: Final = {
    36: "",  # bad arguments of a table or engine
    46: "",  # an unknown function: a server that is too old
    47: "; run `callspool store migrate`",  # unknown identifier
    60: "; run `callspool store migrate`",  # unknown table
    81: "; create the database",
    192: "; check user and password",
    193: "; check user and password",
    497: "; grant SELECT, INSERT, ALTER DELETE and CREATE on this database to the user of callspool",
    516: "; check user and password",
}
"""What somebody must change, and what to do about it. All else (252 too many parts, 241 memory, 159 timeout, 202 too
many queries, 243 disk full, 164 read-only, 999 Keeper) may work later."""


class ClickHouse:
    """Statements to the database that `url` names. Raises `StoreError` instead of the library's errors."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def rows(self, statement: str, parameters: Mapping[str, object] | None = None) -> list[Sequence[Any]]:
        """What a query returns; columns named in `sql.BYTES` as bytes."""
        async with self._connected() as client:
            result = await client.query(statement, parameters=dict(parameters or {}), column_formats=dict(sql.BYTES))
            found: list[Sequence[Any]] = list(result.result_rows)
        return found

    async def run(self, statement: str, parameters: Mapping[str, object] | None = None) -> None:
        """Carry out a statement that returns nothing."""
        async with self._connected() as client:
            await client.command(statement, parameters=dict(parameters or {}))

    async def insert(
        self, table: str, columns: Mapping[str, str], rows: Sequence[Sequence[object]], token: str | None = None
    ) -> None:
        """Insert rows; `columns` has the type of each column. What has the same token is inserted once."""
        settings = None if token is None else {"insert_deduplication_token": token}
        async with self._connected() as client:
            await client.insert(
                table, rows, column_names=list(columns), column_type_names=list(columns.values()), settings=settings
            )

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncClient]:
        try:
            async with self._connecting:
                if self._client is None:
                    self._client = await clickhouse_connect.get_async_client(
                        dsn=self._url,
                        secure=self._url.startswith("clickhouses:"),
                        settings=dict(_SETTINGS),
                        compress=False,
                        connect_timeout=CONNECT_SECONDS,
                        send_receive_timeout=self._timeout,
                        autogenerate_session_id=False,
                        query_retries=0,
                        client_name="callspool",
                    )
            yield self._client
        except (Error, aiohttp.ClientError, OSError, TimeoutError, UnicodeEncodeError, OverflowError) as error:
            raise translate(error) from error


def translate(error: Exception) -> StoreError:
    """The store's error for one of the client's. Of the server's text only the first line is kept."""
    code = getattr(error, "code", None)
    if code is not None:
        message = f"ClickHouse: {_first_line(error)}"
        if code in _REFUSED_VALUES:
            return PartRefused(message)
        if code in _SET_UP:
            return StoreRefused(message + _SET_UP[code])
        return StoreUnavailable(message)
    if isinstance(error, DataError | UnicodeEncodeError | OverflowError):
        return PartRefused(f"ClickHouse refuses a value: {type(error).__name__}")
    reason = _first_line(error) if isinstance(error, OperationalError) else str(error) or type(error).__name__
    return StoreUnavailable(f"ClickHouse cannot be reached: {reason}")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]

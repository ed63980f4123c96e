"""A process that backfills a day and kills itself in its n-th page, before that is committed.

    python -m tests.stores.killed_backfill STORE DAY PAGE_ROWS KILLED_PAGE

STORE is a path, or the URL of a PostgreSQL database.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any

from tests.stores.calls import RULE
from uploaders.stores.sqlite.connection import Connection
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import Store


def _store(name: str, killed_page: int) -> Store:
    pages = 0

    def ends_a_page() -> None:
        nonlocal pages
        pages += 1
        if pages == killed_page:
            os.kill(os.getpid(), signal.SIGKILL)

    if "://" not in name:
        change = Connection.change

        def watched(self: Connection, statement: str, parameters: Any) -> int:
            changed = change(self, statement, parameters)
            if "cursor_project = ?" in statement:
                ends_a_page()
            return changed

        Connection.change = watched  # type: ignore[method-assign]  # it is to be killed there
        return SqliteStore(Path(name), lambda: 1_800_000_000_000, RULE)
    import psycopg

    from uploaders.stores.postgres import sql
    from uploaders.stores.postgres.store import PostgresStore

    execute: Callable[..., Awaitable[Any]] = psycopg.AsyncConnection.execute

    async def executed(self: Any, query: Any, *arguments: Any) -> Any:
        done = await execute(self, query, *arguments)
        if query == sql.BACKFILL_ADVANCE:
            ends_a_page()
        return done

    psycopg.AsyncConnection.execute = executed  # type: ignore[method-assign, assignment]  # as above
    return PostgresStore(name, RULE)


async def _backfill(store: Store, day: date, rows: int) -> None:
    async for _ in store.backfill(day, rows):
        pass
    await store.close()


if __name__ == "__main__":
    name, day, rows, killed_page = sys.argv[1:]
    asyncio.run(_backfill(_store(name, int(killed_page)), date.fromisoformat(day), int(rows)))

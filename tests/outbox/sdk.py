"""Runs the Whispey SDK in processes of its own, against an outbox file and an address."""

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

VERSION = "4.2.11"
KEY = "agents-key-77ab"
DOWN = "http://127.0.0.1:9/dev/send-call-log"
"""Nothing listens there: a post fails at once."""
_PROGRAM = Path(__file__).with_name("sdk_process.py")


def _installed() -> bool:
    try:
        return version("whispey") == VERSION
    except PackageNotFoundError:
        return False


needs_sdk = pytest.mark.skipif(not _installed(), reason=f"whispey {VERSION} is not installed: run `make setup`")


async def agent(outbox: Path, url: str, mode: str, count: int = 1, call_logs: Path | None = None) -> list[str]:
    """Run an agent to its end; the ids of its calls."""
    environment = {
        **os.environ, "WHISPEY_OUTBOX_PATH": str(outbox), "WHISPEY_API_URL": url, "WHISPEY_API_KEY": KEY,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, _PROGRAM, mode, str(count), *([call_logs] if call_logs else []),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    calls: list[str] = json.loads(output)
    return calls


def write(outbox: Path, **columns: Any) -> int:
    """A row as the SDK writes it, in a table as the SDK makes it; `columns` beside its defaults."""
    row = {"call_id": "call-1", "event_type": "call_ended", "status": "pending", "created_at": 0.0, **columns}
    if not isinstance(row.setdefault("payload", {}), str):
        row["payload"] = json.dumps({"whispey_data": row["payload"], "apikey": KEY, "api_url": DOWN})
    names = ", ".join(row)
    with closing(sqlite3.connect(outbox)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, "
            "event_type TEXT NOT NULL, payload TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'pending', "
            "attempts INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, "
            "next_attempt_at REAL NOT NULL DEFAULT 0, claimed_at REAL, last_error TEXT)"
        )
        marks = ", ".join("?" * len(row))
        row_id = connection.execute(f"INSERT INTO outbox ({names}) VALUES ({marks})", tuple(row.values())).lastrowid
        connection.commit()
    assert row_id is not None
    return row_id


def rows(outbox: Path) -> list[tuple[Any, ...]]:
    """What lies in an outbox: id, status, claimed_at."""
    with closing(sqlite3.connect(outbox)) as connection:
        return connection.execute("SELECT id, status, claimed_at FROM outbox ORDER BY id").fetchall()

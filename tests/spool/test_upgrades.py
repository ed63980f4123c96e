"""A full spool of each earlier schema is brought up to date, and everything in it goes on as it was.

What each version wrote is made of a spool of today: its tables and columns, without those that came later.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from spool.db.connection import connect_writer
from spool.db.sql import checksum_of
from spool.directory import DATABASE_NAME
from spool.fsck import Severity, check
from spool.keys import KEYS_NAME, KeyRing, MainKey
from spool.records import DeadLetter, Delivered, Fragment, Hold, Lane, RetryAt, Settlement
from spool.stats import LaneCounts
from spool.store import Spool
from tests.spool.salvaged_spools import bring
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    NOTICE,
    NOW,
    OBJECT,
    a_record,
    dead,
    decoded,
    due,
    one_of_everything,
    opened,
    replay,
    rows,
    split_fragments,
)

SCHEMAS = sorted(entry.name for entry in files("spool").joinpath("schema").iterdir() if entry.name.endswith(".sql"))
GIANT = os.urandom(5 << 20)
"""Some chunks, written in more than one transaction."""
OLD_NAMES = {"orphan_chunks": "loose_chunks"}
"""What version 6 called anew."""
NOT_YET = {"traces", "trace_rows", "live_calls", "live_turns", "attempts"}
"""What waits for the end of a call, and the history of attempts: made by other versions, and tested on their own."""
CHECKSUMS_SINCE, PRINCIPALS_SINCE, KEYS_SINCE, ERASURES_SINCE = 3, 6, 13, 15
PLAIN, RING = KeyRing(), KeyRing((MainKey(b"k" * 32),))


@dataclass(frozen=True)
class Full:
    """A spool that is closed, and what was in it."""

    directory: Path
    lanes: Mapping[tuple[str, Lane], LaneCounts]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Full:
    return asyncio.run(filled(tmp_path_factory.mktemp("full")))


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Full:
    return asyncio.run(filled(tmp_path_factory.mktemp("encrypted"), RING))


async def filled(directory: Path, keys: KeyRing = PLAIN) -> Full:
    """Both lanes, every state, dead letters, a giant, a receipt, a deferred and a held delivery."""
    async with opened(directory, keys=keys) as spool:
        await one_of_everything(spool)
        await spool.accept(a_record("giant", CORE, DETAIL, fragments=split_fragments(GIANT)))
        await spool.accept(a_record("object", OBJECT, NOTICE, fragments=split_fragments(os.urandom(5000))))
        await spool.accept(a_record("core-dead", CORE, DETAIL, fragments=split_fragments(b'"rest": 2')))
        for call_id in ("deferred", "refused", "receipt"):
            await spool.accept(a_record(call_id, token="key"))
        for delivery in await due(spool):
            outcomes: dict[str, Settlement] = {
                "core-dead": DeadLetter("HTTP 400"),
                "deferred": RetryAt(NOW + 60_000, "HTTP 500"),
                "refused": Hold("401", delivery.record.token_id),
                "receipt": Delivered(),
                "giant": Delivered(),
            }
            if delivery.record.call_id in outcomes:
                await spool.settle(delivery, outcomes[delivery.record.call_id])
        return Full(directory, dict(spool.stats().lanes))


def as_version(found: Full, number: int, folder: Path) -> None:
    """The spool as this version of the schema holds it."""
    folder.chmod(0o700)
    path = folder / DATABASE_NAME
    path.touch(0o600)
    connection = connect_writer(path)
    for name in SCHEMAS[:number]:
        connection.executescript(files("spool").joinpath("schema", name).read_text("utf-8"))
    connection.execute("ATTACH ? AS today", (str(found.directory / DATABASE_NAME),))
    for (table,) in connection.execute("SELECT name FROM today.sqlite_schema WHERE type = 'table'").fetchall():
        old = OLD_NAMES.get(table, table) if number < PRINCIPALS_SINCE else table
        columns = columns_of(connection, "main", old) & columns_of(connection, "today", table)
        if columns and table not in NOT_YET and not table.startswith("sqlite_"):
            names = ", ".join(sorted(columns))
            connection.execute(f"INSERT OR REPLACE INTO main.{old} ({names}) SELECT {names} FROM today.{table}")
    if CHECKSUMS_SINCE <= number < PRINCIPALS_SINCE:
        for row in connection.execute(
            "SELECT record_id, call_id, agent_id, event, environment, digest, raw_bytes, stored_bytes, accepted_at, "
            "token_id, first_chunk, fragments, origin FROM records"
        ).fetchall():
            connection.execute("UPDATE records SET checksum = ? WHERE record_id = ?", (checksum_of(row), row[0]))
    if number < ERASURES_SINCE:
        connection.execute("DELETE FROM meta WHERE name = 'erasure_salt'")
    assert connection.execute("PRAGMA user_version").fetchone() == (number,)
    connection.close()


def columns_of(connection: sqlite3.Connection, schema: str, table: str) -> set[str]:
    return {name for (_, name, *_) in connection.execute(f"PRAGMA {schema}.table_info({table})")}


@pytest.mark.parametrize("number", range(1, len(SCHEMAS)), ids=lambda number: SCHEMAS[number - 1])
async def test_a_full_spool_of_each_version_goes_on(full: Full, number: int, tmp_path: Path) -> None:
    """Nothing is lost, damaged, or in another state; what is due is delivered, the dead can be replayed, the books
    balance, and fsck finds no error."""
    as_version(full, number, tmp_path)
    async with opened(tmp_path) as spool:
        assert dict(spool.stats().lanes) == dict(full.lanes)
        assert spool.stats().unaccounted == 0
        await everything_is_delivered(spool)
        assert spool.stats().unaccounted == 0
        left = {key: counts.queued + counts.dead for key, counts in spool.stats().lanes.items()}
        assert set(left.values()) == {0}, left
    assert not [finding for finding in check(tmp_path) if finding.severity is Severity.ERROR]
    assert rows(tmp_path, "PRAGMA user_version") == [(len(SCHEMAS),)]


@pytest.mark.parametrize("number", range(1, len(SCHEMAS)), ids=lambda number: SCHEMAS[number - 1])
async def test_a_full_spool_of_each_version_can_be_adopted(full: Full, number: int, tmp_path: Path) -> None:
    """A gateway takes over what another one of an older version left, without that ever starting again."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    as_version(full, number, before)
    async with opened(after) as spool:
        await bring(spool, before)
        found = spool.stats().lanes
        assert {key: counts.queued + counts.dead for key, counts in found.items() if counts.owed} == {
            key: counts.queued + counts.dead for key, counts in full.lanes.items() if counts.queued + counts.dead
        }
        await everything_is_delivered(spool)
        assert spool.stats().unaccounted == 0


@pytest.mark.parametrize(
    ("number", "adopts"),
    [
        # `make test` does one of the two with each version.
        pytest.param(
            number,
            adopts,
            id=f"{SCHEMAS[number - 1]}-{'is adopted' if adopts else 'goes on'}",
            marks=[pytest.mark.prove] if (number + adopts) % 2 else [],
        )
        for number in range(KEYS_SINCE, len(SCHEMAS))
        for adopts in (False, True)
    ],
)
async def test_an_encrypted_spool_of_each_version_with_keys(
    encrypted: Full, number: int, adopts: bool, tmp_path: Path
) -> None:
    """The same with a key, since there are any: what was encrypted before is decrypted, and delivered."""
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    as_version(encrypted, number, before)
    shutil.copy(encrypted.directory / KEYS_NAME, before / KEYS_NAME)
    async with opened(after if adopts else before, keys=RING) as spool:
        if adopts:
            assert (await bring(spool, before)).complete
        await everything_is_delivered(spool)
        assert spool.stats().unaccounted == 0
    assert not [finding for finding in check(after if adopts else before) if finding.severity is Severity.ERROR]


async def everything_is_delivered(spool: Spool) -> None:
    """Replay what is dead, free what is held, and settle until nothing is due, reading each payload."""
    await replay(spool, [one.key for one in await dead(spool, None, limit=100)])
    for token_id in range(1, 20):
        await spool.release(ENDPOINT, token_id)
    later = NOW + 120_000
    giants = 0
    while True:
        found = [
            delivery
            for destination in (ENDPOINT, BUCKET)
            for lane in Lane
            for delivery in await due(spool, lane, destination=destination, now=later)
        ]
        if not found:
            break
        for delivery in found:
            assert not delivery.record.damaged
            if delivery.lane is Lane.DETAIL:
                frames = [frame async for frame in spool.frames(delivery.record, Fragment.REST)]
                giants += decoded(b"".join(frames)) == GIANT
            await spool.settle(delivery, Delivered())
    assert giants == 1

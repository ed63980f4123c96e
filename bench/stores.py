"""What stores take: parts and completions a second beside the engine's own ceiling, details, lists and backfills.

    make bench ARGS=stores

The ceiling of PostgreSQL is plain COPY of the same documents by one connection, a hundred a transaction, measured in
turn with the others: a machine that others use too is then slow for all of them.
"""

import asyncio
import hashlib
import json
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

import click
import zstandard
from rich.console import Console
from rich.table import Table

from bench.calllogs import make_call_log
from bench.clickhouse_server import ClickHouseServer
from bench.postgres_server import PostgresServer
from bench.workers import measure_workers
from uploaders.stores.completion import CallState, CompletionRule
from uploaders.stores.parts import Part, PartKind, read_head
from uploaders.stores.spans import read_spans
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import BackfillStatus, CallQuery, Detail, Store

_EVENTS = {PartKind.START: "call_started", PartKind.END: "call_ended"}
_WORDS = "x" * 150
_DETAIL_BYTES = 15_000_000
_FRAME_BYTES = 1 << 20


@click.command("stores")
@click.option("--calls", type=click.IntRange(100), default=5_000, show_default=True, help="Calls of each measurement.")
@click.option("--listed", type=click.IntRange(0), default=1_000_000, show_default=True, help="Calls to list 50 of.")
@click.option("--filled", type=click.IntRange(0), default=50_000, show_default=True, help="Calls to backfill.")
@click.option("--clickhouse/--no-clickhouse", default=True, help="Whether to measure ClickHouse's engine, too.")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="How often.")
@click.option("--queued", type=click.IntRange(0), default=20_000, show_default=True, help="Calls that wait in Kafka.")
def stores(calls: int, listed: int, filled: int, rounds: int, queued: int, *, clickhouse: bool) -> None:
    """Measure the stores beside what their engines can do at most."""
    with ExitStack() as stack:
        server = PostgresServer("18")
        stack.callback(server.stop)
        server.start()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callspool-stores-")))
        asyncio.run(_measure(server, folder, calls, listed, rounds))
        if filled:
            asyncio.run(_measure_backfill(server, filled, rounds))
        if clickhouse:
            engine = ClickHouseServer()
            stack.callback(engine.stop)
            asyncio.run(_measure_clickhouse(engine, calls, rounds))
        if queued:
            measure_workers(server, queued, rounds, Console())


async def _measure(server: PostgresServer, folder: Path, calls: int, listed: int, rounds: int) -> None:
    from uploaders.stores.postgres.store import PostgresStore  # noqa: PLC0415  # an extra

    rule = CompletionRule()
    postgres = PostgresStore(server.url(), rule, pool=8)
    sqlite = SqliteStore(folder / "calls.db", lambda: time.time_ns() // 1_000_000, rule)
    for store in (postgres, sqlite):
        await store.open()
    runs: dict[str, Callable[[str], Awaitable[float]]] = {
        "PostgreSQL, plain COPY, 100 a transaction (ceiling)": lambda name: _copied(server, name, calls),
        "PostgreSQL, batches of 100, 1 connection": lambda name: _written(postgres, name, calls, 100, 1),
        "PostgreSQL, batches of 100, 4 connections": lambda name: _written(postgres, name, calls, 100, 4),
        "PostgreSQL, batches of 500, 4 connections": lambda name: _written(postgres, name, calls, 500, 4),
        "SQLite, batches of 100": lambda name: _written(sqlite, name, calls, 100, 1),
    }
    rates: dict[str, list[float]] = {what: [] for what in runs}
    details: dict[str, list[float]] = {"PostgreSQL": [], "SQLite": []}
    for number in range(rounds):
        for place, (what, run) in enumerate(runs.items()):
            rates[what].append(await run(f"{number}-{place}"))
        for engine, store in (("PostgreSQL", postgres), ("SQLite", sqlite)):
            details[engine].append(await _detailed(store, number))
    console = Console()
    table = Table("parts of 2 KB, half of them completing a call", "parts/s", "calls/s", "of the ceiling")
    ceiling = median(next(iter(rates.values())))
    for what, found in rates.items():
        rate = median(found)
        table.add_row(what, f"{rate:,.0f}", f"{rate / 2:,.0f}", f"{rate / ceiling:.0%}")
    console.print(table)
    for engine, found in details.items():
        console.print(f"{engine}: a detail of 15 MB with its spans in {1000 * median(found):.0f} ms")
    if listed:
        _fill(server, listed)
        _fill_sqlite(folder / "calls.db", listed)
        for engine, store in (("PostgreSQL", postgres), ("SQLite", sqlite)):
            for what, query in _LISTS.items():
                seconds = [await _listed(store, query) for _ in range(rounds)]
                console.print(f"{engine}: {what} of {listed:,} calls in {1000 * median(seconds):.1f} ms")
    for store in (postgres, sqlite):
        await store.close()


def _parts(kind: PartKind, name: str, count: int) -> list[Part]:
    made = []
    for number in range(count):
        document = json.dumps(
            {
                "call_id": f"{name}-{number}", "wcall_event": _EVENTS[kind], "agent_id": "a", "customer_number": "+49",
                "call_started_at": 1_764_320_400 + number, "call_ended_at": 1_764_320_460 + number,
                "transcript_json": [{"role": "user", "content": _WORDS}] * 10,
            }
        ).encode()  # fmt: skip
        digest = hashlib.sha256(document).digest()
        at = 1_800_000_000_000 + number
        part = Part("", f"{name}-{number}", kind, digest, at, f"u-{name}-{number}", _EVENTS[kind], document)
        made.append(part)
    return made


async def _written(store: Store, name: str, calls: int, batch: int, connections: int) -> float:
    """Parts a second, reading their heads included: start and end of a call in one batch."""
    starts, ends = (_parts(kind, name, calls) for kind in (PartKind.START, PartKind.END))
    half = batch // 2
    batches = iter([starts[at : at + half] + ends[at : at + half] for at in range(0, calls, half)])

    async def write() -> None:
        for parts in batches:
            await store.write([_with_head(part) for part in parts])

    began = time.perf_counter()
    await asyncio.gather(*[write() for _ in range(connections)])
    return 2 * calls / (time.perf_counter() - began)


def _with_head(part: Part) -> Part:
    return Part(
        part.project, part.call_id, part.kind, part.digest, part.accepted_at, part.source_uid, part.event,
        part.document, read_head(part.document),
    )  # fmt: skip


async def _copied(server: PostgresServer, name: str, calls: int) -> float:
    """Documents a second by plain COPY into a table with the same key."""
    import psycopg  # noqa: PLC0415  # an extra

    parts = [*_parts(PartKind.START, name, calls), *_parts(PartKind.END, name, calls)]

    def copy() -> float:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(
                "create table if not exists plain (project text, call_id text, kind smallint, digest bytea, "
                "core json, primary key (project, call_id, kind, digest))"
            )
            began = time.perf_counter()
            for at in range(0, len(parts), 100):
                with (
                    connection.transaction(),
                    connection.cursor() as cursor,
                    cursor.copy("copy plain from stdin") as to,
                ):
                    for part in parts[at : at + 100]:
                        to.write_row((part.project, part.call_id, part.kind, part.digest, part.document.decode()))
            return len(parts) / (time.perf_counter() - began)

    return await asyncio.to_thread(copy)


async def _detailed(store: Store, number: int) -> float:
    """Seconds for one detail whose frames are there already, as in a spool."""
    document = make_call_log(_DETAIL_BYTES, seed=number, call_id=f"detail-{number}")
    compressor = zstandard.ZstdCompressor(level=1)
    frames = [compressor.compress(piece) for piece in _cut(document)]

    async def stored() -> AsyncIterator[bytes]:
        for frame in frames:
            yield frame

    digest = hashlib.sha256(document).digest()
    part = Part("", f"detail-{number}", PartKind.DETAIL, digest, number, "u", "call_detail", b"")
    began = time.perf_counter()
    await store.write_detail(part, Detail(stored(), lambda: read_spans(document)))
    return time.perf_counter() - began


def _cut(document: bytes) -> Iterator[bytes]:
    for start in range(0, len(document), _FRAME_BYTES):
        yield document[start : start + _FRAME_BYTES]


_FIRST = 1_600_000_000_000
_LISTS = {
    "the newest 50": CallQuery(),
    "50 of one agent in 1,000": CallQuery(agent_id="agent-7"),
    "50 of one number in 10,000": CallQuery(customer_number="+77"),
    "50 of one tenant in two": CallQuery(project="other"),
    "50 of one second": CallQuery(since=_FIRST + 50_000, until=_FIRST + 51_000),
    "50 that timed out, of 50": CallQuery(state=CallState.TIMED_OUT),
    "50 of one agent that timed out": CallQuery(agent_id="agent-51", state=CallState.TIMED_OUT),
    "none of one state": CallQuery(state=CallState.ORPHAN),
}


def _fill(server: PostgresServer, count: int) -> None:
    """So many complete calls, without their parts: only the list looks at them."""
    import psycopg  # noqa: PLC0415  # an extra

    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            "insert into calls_complete (project, call_id, state, late, end_digest, end_head, self_contained, "
            "conflicts, first_part_at, completed_at) select case n %% 4 when 0 then 'other' else '' end, 'fill-' || n, "
            "case n %% 50 when 1 then 4 else 3 end, false, '\\x00', "
            "jsonb_build_object('started_at', %s + n, 'agent_id', 'agent-' || n %% 1000, 'customer_number', "
            "'+' || n %% 10000), true, 0, now(), now() from generate_series(1, %s) n",
            (_FIRST, count),
        )
        connection.execute("vacuum analyze calls_complete")


def _fill_sqlite(path: Path, count: int) -> None:
    """The same in SQLite."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
            "INSERT INTO calls_complete (project, call_id, state, late, end_accepted_at, end_digest, end_head, "
            "self_contained, conflicts, first_part_at, completed_at, agent_id, customer_number, started_at, listed_at) "
            "SELECT CASE n % 4 WHEN 0 THEN 'other' ELSE '' END, 'fill-' || n, "
            "CASE n % 50 WHEN 1 THEN 4 ELSE 3 END, 0, 0, x'00', '{}', 1, 0, ? + n, ? + n, 'agent-' || n % 1000, "
            "'+' || n % 10000, ? + n, ? + n FROM numbers",
            (count, _FIRST, _FIRST, _FIRST, _FIRST),
        )
        connection.execute("COMMIT")


async def _listed(store: Store, query: CallQuery) -> float:
    began = time.perf_counter()
    await store.calls(query)
    return time.perf_counter() - began


# A day of calls on the old path alone, brought to the new one: in pages, beside one statement for all of it.


async def _measure_backfill(server: PostgresServer, calls: int, rounds: int) -> None:
    from uploaders.stores.postgres.store import PostgresStore  # noqa: PLC0415  # an extra

    store = PostgresStore(server.url(), CompletionRule(), pool=4)
    await store.open()
    day = datetime.now(UTC).date() - timedelta(days=30)
    await asyncio.to_thread(_parts_of_a_day, server, day, calls)
    ceilings, pages, whole = [], [], []
    for _ in range(rounds):
        ceilings.append(calls / await asyncio.to_thread(_in_one_statement, server, day))
        _forget_rows(server)
        began = time.perf_counter()
        async with aclosing(store.backfill(day)) as steps:
            async for step in steps:
                if step.status is BackfillStatus.RUNNING:
                    paged = time.perf_counter() - began
        pages.append(calls / paged)
        whole.append(calls / (time.perf_counter() - began))
        _forget_rows(server)
    await store.close()
    Console().print(
        f"PostgreSQL: a backfill of {calls:,} calls of a day: {median(pages):,.0f} calls/s in pages, "
        f"{median(whole):,.0f} with the comparison at its end, {median(ceilings):,.0f} in one statement "
        f"({median(pages) / median(ceilings):.0%} of it)"
    )


def _parts_of_a_day(server: PostgresServer, day: date, calls: int) -> None:
    import psycopg  # noqa: PLC0415  # an extra

    with psycopg.connect(server.url(), autocommit=True) as connection:
        for kind, event in ((PartKind.START, "call_started"), (PartKind.END, "call_ended")):
            connection.execute(
                "insert into call_parts (project, call_id, kind, digest, event, accepted_at, received_at, source_uid, "
                "core, head) select '', 'day-' || n, %s, sha256((n || %s)::bytea), %s, now(), "
                "%s::timestamp at time zone 'UTC' + interval '12 hours', 'u', "
                "json_build_object('x', repeat('x', 1800)), jsonb_build_object('started_at', %s + n, 'agent_id', 'a') "
                "from generate_series(1, %s) n",
                (int(kind), event, event, day, _FIRST, calls),
            )
        connection.execute("vacuum analyze call_parts")


def _in_one_statement(server: PostgresServer, day: date) -> float:
    """Seconds for the rows of all calls of a day, without pages, cursor and comparison."""
    import psycopg  # noqa: PLC0415  # an extra

    from uploaders.stores.postgres import sql  # noqa: PLC0415  # as above

    values = {"day": day, "rows": 1 << 30, "page": 0, "timeout": 300_000, "open_timeout": 3_600_000}
    with psycopg.connect(server.url(), autocommit=True, options="-c timezone=UTC") as connection:
        connection.execute(sql.BACKFILL_BEGIN, {"day": day})
        began = time.perf_counter()
        connection.execute(sql.BACKFILL_CALLS)
        connection.execute(sql.BACKFILL_FIND, values)
        connection.execute(sql.BACKFILL_INDEX)
        connection.execute(sql.BACKFILL_INSERT, values)
        return time.perf_counter() - began


def _forget_rows(server: PostgresServer) -> None:
    import psycopg  # noqa: PLC0415  # an extra

    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("delete from calls_complete where call_id like 'day-%'")
        connection.execute("delete from backfill_progress")
        connection.execute("vacuum calls_complete")


async def _measure_clickhouse(server: ClickHouseServer, calls: int, rounds: int) -> None:
    from uploaders.stores.clickhouse.store import ClickHouseStore  # noqa: PLC0415  # an extra

    store = ClickHouseStore(server.url(), lambda: time.time_ns() // 1_000_000, CompletionRule())
    await store.open()
    for batch in (100, 1_000):
        count = min(calls, 10 * batch)
        rate = median([await _written(store, f"{number}-{batch}", count, batch, 1) for number in range(rounds)])
        Console().print(f"ClickHouse's engine: {rate:,.0f} parts/s, {rate / 2:,.0f} calls/s in batches of {batch:,}")
    await store.close()

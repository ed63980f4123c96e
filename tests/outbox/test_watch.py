"""Watching outboxes: they may appear later, be broken or foreign; a quiet one costs nothing."""

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.sdk_outbox import rescue
from gateway.sdk_outbox.model import OutboxState, Outcome, Row, SinkUnavailable, Stamp
from gateway.sdk_outbox.reader import OutboxReader
from gateway.sdk_outbox.rescue import OutboxWatch
from gateway.sdk_outbox.sinks import Copy, RowSink
from tests.intake.running_intake import running
from tests.outbox.outbox_rescue import INTERVAL, Heard, watching_over
from tests.outbox.sdk import rows, write
from tests.system.waiting import until

FULL = {"call_id": "call-1", "wcall_event": "call_ended", "telemetry_data": {}}


class FullForNow:
    """A sink that can accept nothing as long as it is `full`, then what another one accepts."""

    def __init__(self, sink: RowSink) -> None:
        self.full = True
        self._sink = sink

    async def store(self, row: Row, copy: Copy) -> Outcome:
        if self.full:
            raise SinkUnavailable("the spool is full")
        return await self._sink.store(row, copy)


async def test_an_outbox_may_appear_later_and_be_replaced(tmp_path: Path) -> None:
    """No file, an empty one, then rows; a new file in its place has all its rows taken, whatever was refused before."""
    outbox = tmp_path / "outbox.db"
    async with watching_over(tmp_path, outbox) as watched:
        await watched.until(OutboxState.MISSING)
        outbox.touch()
        write(outbox, payload=FULL)
        await watched.until(OutboxState.WATCHED, rescued=1)
        write(outbox, payload="{}")
        await until(lambda: asyncio.sleep(0, watched.status().outcomes.get(Outcome.REFUSED) == 1), "a row is refused")
        outbox.unlink()
        await watched.until(OutboxState.MISSING)
        for number in (2, 3):
            write(outbox, payload={**FULL, "call_id": f"call-{number}"})
        await watched.until(OutboxState.WATCHED, rescued=3)


@pytest.mark.parametrize(
    ("later", "replaces"),
    [
        (Stamp((1, 7), 8192, 6, 0, 0), False),
        (Stamp((1, 7), 12288, 6, 4096, 6), False),
        (Stamp((1, 8), 12288, 6, 0, 0), True),
        (Stamp((2, 7), 8192, 6, 0, 0), True),
        (Stamp((1, 7), 4096, 6, 0, 0), True),
    ],
)
def test_a_file_that_was_replaced_between_two_looks_is_taken_for_another(later: Stamp, replaces: bool) -> None:
    """Another inode, or the same one with less in it: it is examined anew, and its rows are not those of before."""
    assert later.replaces(Stamp((1, 7), 8192, 5, 0, 0)) is replaces


def damaged(path: Path) -> None:
    """An outbox with a page overwritten."""
    for number in range(12):
        write(path, payload={**FULL, "call_id": f"call-{number}", "x": "y" * 1000})
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(4096))


def truncated(path: Path) -> None:
    """An outbox of which the end is missing."""
    for number in range(12):
        write(path, payload={**FULL, "call_id": f"call-{number}", "x": "y" * 1000})
    os.truncate(path, 3 * 4096)


def foreign(path: Path) -> None:
    """Another program's SQLite file, in WAL mode as that one may have it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT);"
        )


def other_outbox(path: Path) -> None:
    """A table of the same name with other columns."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE outbox (id INTEGER PRIMARY KEY, payload TEXT);")


def with_trigger(path: Path) -> None:
    """An outbox that runs something when a row is deleted."""
    write(path, payload=FULL)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TRIGGER t AFTER DELETE ON outbox BEGIN DELETE FROM outbox; END;")


def text(path: Path) -> None:
    """No SQLite file at all."""
    path.write_text("hello " * 1000)


def folder(path: Path) -> None:
    """Not even a file."""
    path.mkdir()


@pytest.mark.parametrize("make", [damaged, truncated, foreign, other_outbox, with_trigger, text, folder])
async def test_a_file_that_is_no_sound_outbox_is_not_touched(tmp_path: Path, make: object) -> None:
    """It is reported with its reason and stays as it is to the byte; another goes on, and so does it when mended."""
    assert callable(make)
    bad, good = tmp_path / "bad.db", tmp_path / "good.db"
    make(bad)
    before = {path: path.read_bytes() for path in tmp_path.glob("bad.db*") if path.is_file()}
    async with watching_over(tmp_path, bad, good) as watched:
        await watched.until(OutboxState.UNUSABLE)
        assert watched.status().reason
        write(good, payload=FULL)
        await watched.until(OutboxState.WATCHED, rescued=1, index=1)
        assert {path: path.read_bytes() for path in tmp_path.glob("bad.db*") if path.is_file()} == before
        shutil.rmtree(bad) if bad.is_dir() else bad.unlink()
        write(bad, payload={**FULL, "call_id": "mended"})
        await watched.until(OutboxState.WATCHED, rescued=1)


async def test_a_quiet_outbox_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as neither the file nor its log changes, a look is a look at their size and time."""
    opened, looked = [], []

    class Counted(OutboxReader):
        def stamp(self) -> Stamp | None:
            looked.append(1)
            return super().stamp()

        async def open(self, stamp: Stamp, *, to_change: bool = True) -> bool:
            opened.append(1)
            return await super().open(stamp, to_change=to_change)

    monkeypatch.setattr(rescue, "OutboxReader", Counted)
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL, status="in_progress", claimed_at=9e9)

    async def settled() -> bool:
        start = len(looked)
        known = len(opened)
        await until(lambda: asyncio.sleep(0, len(looked) > start + 5), "it was looked at five times")
        return len(opened) == known

    async with watching_over(tmp_path, outbox) as watched:
        await watched.until(OutboxState.WATCHED)
        await until(settled, "it is not opened any more")
        assert await settled()
        assert watched.status().rows == 1
        watched.world.clock.now = 10**13
        await watched.until(OutboxState.WATCHED, rescued=1)


async def test_a_clock_that_is_set_back_holds_up_no_outbox(tmp_path: Path) -> None:
    """After a refusal of the spool an outbox waits some seconds, not until the clock is as late again."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    async with running(tmp_path / "spool") as world:
        sink = FullForNow(world.intake.sink(key=None))
        watch = OutboxWatch((outbox,), INTERVAL, sink, world.clock, Heard())
        watch.start()
        await until(lambda: asyncio.sleep(0, watch.status()[0].state is OutboxState.WAITING), "it waits")
        sink.full = False
        world.clock.now -= 1000 * 3_600_000
        set_back_to = world.clock.now

        async def rescued() -> bool:
            world.clock.now += 1000
            return watch.status()[0].outcomes == {Outcome.RESCUED: 1}

        await until(rescued, "its row is taken")
        assert world.clock.now - set_back_to < 3_600_000
        await watch.stop(5.0)


async def test_a_stop_takes_what_was_written_last(tmp_path: Path) -> None:
    """An agent that is stopped together with the gateway writes its rows then: a stop ends with a look."""
    outbox = tmp_path / "outbox.db"
    async with running(tmp_path / "spool") as world:
        watch = OutboxWatch((outbox,), 3600.0, world.intake.sink(key=None), world.clock, Heard())
        watch.start()
        await until(lambda: asyncio.sleep(0, watch.status()[0].state is OutboxState.MISSING), "it was looked at")
        write(outbox, payload=FULL)
        await watch.stop(5.0)
        assert watch.status()[0].outcomes == {Outcome.RESCUED: 1}
        assert rows(outbox) == []

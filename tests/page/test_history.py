"""Tests of the history: bounded, kept through a kill, and never a reason to fail."""

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.events import RecentEvents
from gateway.admin.history import (
    MINUTES,
    NOTES_NAME,
    SAMPLES_NAME,
    History,
    Note,
    Recorder,
    Sample,
    accepted_per_minute,
    best_rate,
    drained_in,
    growth,
    quantile,
    read_history,
    room_of,
)
from gateway.admin.metrics import Metrics
from spool.records import Lane
from spool.stats import LaneCounts
from tests.admin.admin_app import ENDPOINT_DOWN, NOW, STATS

MINUTE = NOW // 60_000


def sample(minute: int, *, waiting: int = 0, spool: int = 0, delivered: int = 5) -> Sample:
    return Sample(minute, 7, delivered, 0, 0, waiting, 0, spool, 0)


def filled(folder: Path, minutes: range) -> History:
    history = History()
    history.open(folder, NOW)
    for minute in minutes:
        history.add(sample(minute))
        history.write(sample(minute), history.notes([]))
    return history


def test_a_day_is_kept_and_no_more(tmp_path: Path) -> None:
    """A ring of a day: the file stays below 100 KB, and an older minute makes way."""
    history = filled(tmp_path, range(MINUTE - MINUTES - 300, MINUTE + 1))
    assert len(history.samples) == MINUTES
    assert (tmp_path / SAMPLES_NAME).stat().st_size < 100_000
    samples, _ = read_history(tmp_path, NOW)
    assert [each.minute for each in samples] == list(range(MINUTE - MINUTES + 1, MINUTE + 1))
    assert (tmp_path / SAMPLES_NAME).stat().st_mode & 0o777 == 0o600


def test_what_was_there_before_is_there_again(tmp_path: Path) -> None:
    """Samples, outages and events outlive a process that was killed; a minute without a gateway is missing."""
    history = filled(tmp_path, range(MINUTE - 5, MINUTE - 2))
    history.note_destinations([("endpoint", NOW - 400_000, "HTTP 503")], NOW - 300_000)
    history.write(None, history.notes([Note(NOW - 400_000, "warning", "endpoint is down")]))
    after = History()
    after.open(tmp_path, NOW)
    after.open(tmp_path, NOW)
    assert [each.minute for each in after.samples] == [MINUTE - 5, MINUTE - 4, MINUTE - 3]
    assert after.events[0].text == "endpoint is down"
    after.note_destinations([], NOW)
    assert [(each.destination, each.since, each.until) for each in after.outages] == [("endpoint", NOW - 400_000, NOW)]


def test_damage_costs_the_damaged_minutes_alone(tmp_path: Path) -> None:
    """A torn slot does not match its checksum and is left out; notes that cannot be read are none."""
    filled(tmp_path, range(MINUTE - 3, MINUTE))
    with (tmp_path / SAMPLES_NAME).open("r+b") as file:
        file.seek((MINUTE - 2) % MINUTES * 48 + 9)
        file.write(b"\xff")
    (tmp_path / NOTES_NAME).write_text('{"outages": [')
    samples, notes = read_history(tmp_path, NOW)
    assert MINUTE - 3 in {each.minute for each in samples}
    assert (notes.outages, notes.events) == ([], [])
    (tmp_path / SAMPLES_NAME).write_bytes(os.urandom(500))
    assert read_history(tmp_path, NOW)[0] == []


def test_the_rates_are_those_of_the_last_minutes() -> None:
    """Growth, time until drained, best rate and posts a minute; None where nothing is known or nothing shrinks."""
    rising = [sample(MINUTE - 10 + n, waiting=10 * n, spool=1000 * n) for n in range(11)]
    falling = [sample(MINUTE - 4 + n, waiting=100 - 20 * n) for n in range(5)]
    assert growth(rising, MINUTE) == 1000
    assert growth([], MINUTE) is None
    assert drained_in(rising, MINUTE, 100) is None
    assert drained_in(falling, MINUTE, 20) == 1.0
    assert drained_in([], MINUTE, 0) == 0.0
    assert (best_rate(rising, MINUTE), best_rate([], MINUTE)) == (5, 0)
    assert (accepted_per_minute(rising, MINUTE), accepted_per_minute([], MINUTE)) == (7, None)


def test_a_quantile_is_the_bound_that_holds_it() -> None:
    """None where there is no value, or where no bound holds it."""
    assert quantile([90, 9, 1, 0], (1.0, 2.0, 3.0), 0.99) == 2.0
    assert quantile([0, 0, 0, 5], (1.0, 2.0, 3.0), 0.5) is None
    assert quantile([0, 0, 0, 0], (1.0, 2.0, 3.0), 0.5) is None


async def test_a_sample_counts_what_happened_in_its_minute(tmp_path: Path) -> None:
    """The difference of two readings, and the levels at the end; a notice that waits for its object is no core."""
    clock = [NOW]
    metrics = Metrics()
    recorder = Recorder(metrics, RecentEvents(lambda: clock[0]), lambda: clock[0])
    await recorder.open(tmp_path)
    await recorder.take(STATS, (ENDPOINT_DOWN,))
    metrics.payload(1, 1)
    clock[0] += 60_000
    lanes = {**STATS.lanes, ("endpoint", Lane.CORE): LaneCounts(owed=130, ready=6, waiting=3, held=1, delivered=120)}
    await recorder.take(replace(STATS, lanes=lanes), (ENDPOINT_DOWN,))
    first, second = recorder.history.samples
    assert (first.accepted, first.core_delivered) == (0, 0)
    assert (second.minute, second.accepted, second.core_delivered) == (MINUTE, 1, 20)
    assert (second.core_waiting, second.detail_waiting, second.dead) == (10, 40, 2)
    assert [each.destination for each in recorder.history.outages] == ["endpoint"]
    assert read_history(tmp_path, clock[0])[1].outages[0].reason == ENDPOINT_DOWN.reason


async def test_what_came_before_a_reload_counts_in_its_minute() -> None:
    """A reload takes the samples up where it left them."""
    metrics = Metrics()
    recorder = Recorder(metrics, RecentEvents(lambda: NOW), lambda: NOW)
    for _ in range(2):
        sampling = asyncio.create_task(recorder.run(lambda: STATS, lambda: ()))
        await asyncio.sleep(0)
        sampling.cancel()
        metrics.payload(1, 1)
    await recorder.take(STATS, ())
    assert recorder.history.samples[-1].accepted == 2


async def test_what_is_shown_changes_on_the_event_loop_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that reads the samples, and an event that comes meanwhile, meet no other thread: only files are its."""
    events, here, threads = RecentEvents(lambda: NOW), threading.get_ident(), list[int]()
    recorder = Recorder(Metrics(), events, lambda: NOW)
    await recorder.open(tmp_path)

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            threads.append(threading.get_ident())
            return function(*given)

        return call

    monkeypatch.setattr(recorder.history, "add", noted(recorder.history.add))
    monkeypatch.setattr(events, "kept", noted(events.kept))
    await recorder.take(STATS, (ENDPOINT_DOWN,))
    await recorder.save()
    assert threads == [here] * 3


async def test_a_directory_that_cannot_be_written_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The history is kept in memory then, and the log says so once."""
    recorder = Recorder(Metrics(), RecentEvents(lambda: NOW), lambda: NOW)
    await recorder.open(tmp_path)
    (tmp_path / SAMPLES_NAME).mkdir()
    for _ in range(2):
        await recorder.take(STATS, ())
    assert len(recorder.history.samples) == 1
    assert capsys.readouterr().out.count("history_not_written") <= 1


async def test_a_sample_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    """One a minute: far below 1 % of a core."""
    recorder = Recorder(Metrics(), RecentEvents(lambda: NOW), lambda: NOW)
    await recorder.open(tmp_path)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(50):
        await recorder.take(STATS, (ENDPOINT_DOWN,))
    assert (loop.time() - started) / 50 < 0.1


def test_room_is_what_quota_and_volume_both_have() -> None:
    """The smaller of the two, and never less than nothing."""
    quota = STATS.limit_bytes - STATS.reserve_bytes - STATS.used_bytes
    assert (room_of(STATS, None), room_of(STATS, 5), room_of(STATS, 10**12)) == (quota, 5, quota)

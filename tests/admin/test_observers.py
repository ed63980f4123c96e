"""Tests of passing on what the dispatcher does, and of numbers for people."""

import pytest

from gateway.admin.events import Observers
from gateway.admin.metrics import Metrics
from gateway.formatting import age_text, bytes_text, count_text
from spool.records import OwnedCall
from tests.admin.admin_app import AdminFigures, delivery


def test_every_observer_hears_everything() -> None:
    """What one observer hears, all hear."""
    world, metrics = AdminFigures(), Metrics()
    observers = Observers(metrics, world.events)
    observers.attempted(delivery(), "dead", 0.5)
    observers.destination_changed("endpoint", False, "down")
    labels = {"destination": "endpoint", "lane": "core", "outcome": "dead"}
    assert metrics.registry.get_sample_value("callspool_deliveries_total", labels) == 1
    assert len(world.events.recent()) == 2


def test_a_clock_that_is_set_back_makes_no_sum_smaller() -> None:
    """A scraper takes a smaller sum for a restart."""
    record = delivery().record
    metrics = Metrics(lambda: record.accepted_at - 60_000)
    metrics.attempted(delivery(), "delivered", 0.5)
    name, labels = "callspool_core_delivered_seconds_sum", {"destination": "endpoint"}
    assert metrics.registry.get_sample_value(name, labels) == 0


def test_what_is_written_of_events_names_no_call() -> None:
    """A page shows which call it was; the file of the history does not, nor does an event of a call that was erased."""
    world = AdminFigures()
    world.events.attempted(delivery(call_id="of-somebody"), "dead", 0.5)
    assert world.events.recent()[0].text == "endpoint: the core of call of-somebody became a dead letter"
    kept = world.events.kept()
    assert [text for _, _, text in kept] == ["endpoint: the core of a call became a dead letter"]
    world.events.restore(kept)
    assert len(world.events.recent()) == 1
    world.events.forget([OwnedCall("of-somebody")])
    assert world.events.recent()[0].text == kept[0][2]


def test_a_refused_token_is_told_apart_from_its_destination() -> None:
    """A refusal is a warning about the token; only a destination that was down accepts deliveries again."""
    world = AdminFigures()
    observers = Observers(Metrics(), world.events)
    observers.credential_changed("endpoint", "token 3", False, "HTTP 401: no such key")
    observers.credential_changed("endpoint", "token 3", True, "it is accepted again")
    accepted, refused = world.events.recent()
    assert (refused.level, refused.text) == (
        "warning",
        "endpoint refuses token 3, its deliveries are held: HTTP 401: no such key",
    )
    assert (accepted.level, accepted.text) == (
        "info",
        "endpoint: token 3 is no longer refused: it is accepted again",
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (99_960, "100 KB"), (999_600, "1.0 MB"), (10**19, "10000 PB")],
)
def test_sizes_have_a_unit_and_few_digits(count: int, text: str) -> None:
    """A size is rounded to what a person can compare."""
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.9, "0 s"), (59, "59 s"), (60, "1 min"), (3_660, "1 h 1 min"), (172_800, "2 d 0 h")],
)
def test_ages_have_their_largest_units(seconds: float | None, text: str) -> None:
    """An age is told as a person would."""
    assert age_text(seconds) == text


def test_counts_have_their_thousands_apart() -> None:
    """A large count can be read at a glance."""
    assert count_text(1234567) == "1,234,567"

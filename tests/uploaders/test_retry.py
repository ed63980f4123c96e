"""When a delivery is tried again."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from spool import records
from spool.records import DeadLetter, Hold, RetryAt, Settlement
from tests.uploaders.deliveries import a_delivery, a_record
from uploaders.base import RETRY_AFTER_LIMIT_SECONDS, Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.policy import (
    RetryPolicy,
    backoff_seconds,
    decide,
    probe_seconds,
)
from uploaders.http.responses import parse_retry_after

NOW = 1_750_000_000_000
HOUR = 3_600_000
POLICY = RetryPolicy(initial=1, maximum=300, give_up_after=24 * 3600)


@pytest.mark.parametrize(("failures", "bound"), [(0, 1), (1, 2), (2, 4), (8, 256), (9, 300), (64, 300), (100_000, 300)])
def test_the_wait_doubles_up_to_the_maximum(failures: int, bound: float) -> None:
    """The bound of the wait doubles with each failure, stays at the maximum, and never overflows."""
    assert backoff_seconds(POLICY, failures, 0.0) == 0
    assert backoff_seconds(POLICY, failures, 0.5) == bound / 2


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_within_its_bounds(failures: int, jitter: float) -> None:
    """Whatever the jitter, a wait is never negative and never above the maximum."""
    assert 0 <= backoff_seconds(POLICY, failures, jitter) <= POLICY.maximum


def test_probes_wait_a_minute_then_longer() -> None:
    """A refused token or destination is probed after 1, 2, 4 and then every 5 minutes."""
    assert [probe_seconds(POLICY, n) for n in range(5)] == [60, 120, 240, 300, 300]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("007", 7.0),
        ("1.5", 1.5),
        ("3601", RETRY_AFTER_LIMIT_SECONDS),
        ("99999999999999999999", RETRY_AFTER_LIMIT_SECONDS),
        ("9" * 6000, RETRY_AFTER_LIMIT_SECONDS),
        (formatdate(NOW / 1000 + 90, usegmt=True), 90.0),
        (formatdate(NOW / 1000 - 90, usegmt=True), 0.0),
        (formatdate(NOW / 1000 + 10 * 86400, usegmt=True), RETRY_AFTER_LIMIT_SECONDS),
        ("Sun, 15 Jun 2025 15:06:49 -0000", 9.0),
        ("Sunday, 15-Jun-25 15:06:50 GMT", 10.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("٣", None),
        ("Sun, 99 Jun 2025 15:06:49 GMT", None),
        ("Sun, 15 Jun 99999 15:06:49 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_garbage_is_ignored(value: str | None, seconds: float | None) -> None:
    """Retry-After is seconds or a date, capped at an hour; anything else counts as absent."""
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_raises(value: str) -> None:
    """No text that an endpoint may send raises, and none gives a wait outside the bounds."""
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_LIMIT_SECONDS


DECISIONS: list[tuple[str, Outcome, dict[str, object], bool, Settlement]] = [
    ("delivered", Delivered("s3://b/k"), {}, True, records.Delivered("s3://b/k")),
    ("first failure", RetryLater("500"), {}, False, RetryAt(NOW + 500, "500")),
    ("third failure", RetryLater("500"), {"attempts": 2}, False, RetryAt(NOW + 2000, "500")),
    ("its own wish", RetryLater("503", after_seconds=30), {}, False, RetryAt(NOW + 30_000, "503")),
    ("a wish below the wait", RetryLater("503", after_seconds=0.1), {}, False, RetryAt(NOW + 500, "503")),
    (
        "whole destination",
        RetryLater("429", Scope.DESTINATION),
        {},
        True,
        RetryAt(NOW + 500, "429", counted=False, for_destination=True),
    ),
    (
        "whole destination, for a week",
        RetryLater("429", Scope.DESTINATION),
        {"first_failed_at": NOW - 168 * HOUR},
        True,
        RetryAt(NOW + 500, "429", counted=False, for_destination=True),
    ),
    (
        "a day, and others passed",
        RetryLater("500"),
        {"first_failed_at": NOW - 24 * HOUR, "attempts": 287},
        True,
        DeadLetter("given up after 24.0 h: 500"),
    ),
    (
        "a day, nothing passed",
        RetryLater("500"),
        {"first_failed_at": NOW - 24 * HOUR, "attempts": 287},
        False,
        RetryAt(NOW + 150_000, "500"),
    ),
    (
        "a day, but for the time that callspool was stopped",
        RetryLater("500"),
        {"first_failed_at": NOW - 24 * HOUR, "attempts": 2},
        True,
        RetryAt(NOW + 2_000, "500"),
    ),
    (
        "a clock that was set forward by a year",
        RetryLater("500"),
        {"first_failed_at": NOW - 365 * 24 * HOUR, "attempts": 286},
        True,
        RetryAt(NOW + 150_000, "500"),
    ),
    (
        "a clock that was set back",
        RetryLater("500"),
        {"first_failed_at": NOW + 24 * HOUR, "attempts": 287},
        True,
        DeadLetter("given up after 24.0 h: 500"),
    ),
    (
        "a clock that was set back, and little effort",
        RetryLater("500"),
        {"first_failed_at": NOW + 24 * HOUR, "attempts": 2},
        True,
        RetryAt(NOW + 2_000, "500"),
    ),
    (
        "not quite a day",
        RetryLater("500"),
        {"first_failed_at": NOW - 24 * HOUR + 1, "attempts": 287},
        True,
        RetryAt(NOW + 150_000, "500"),
    ),
    (
        "its own bound",
        RetryLater("404", give_up_after_seconds=3600),
        {"first_failed_at": NOW - HOUR, "attempts": 11},
        False,
        DeadLetter("given up after 1.0 h: 404"),
    ),
    (
        "its own bound, after a restart",
        RetryLater("404", give_up_after_seconds=3600),
        {"first_failed_at": NOW - HOUR, "attempts": 2},
        False,
        RetryAt(NOW + 2_000, "404"),
    ),
    (
        "a bound at the first failure",
        RetryLater("404", give_up_after_seconds=0),
        {},
        False,
        RetryAt(NOW + 500, "404"),
    ),
    ("refused", Refused("400"), {}, False, DeadLetter("400")),
    ("too large", Refused("413", too_large=True), {}, False, DeadLetter("413")),
    ("token refused", Refused("401", Scope.CREDENTIAL), {}, False, Hold("401", 7)),
    (
        "destination refuses",
        Refused("302", Scope.DESTINATION),
        {},
        False,
        RetryAt(NOW + 60_000, "302", counted=False, for_destination=True),
    ),
]


@pytest.mark.parametrize(
    ("outcome", "fields", "others_pass", "expected"),
    [row[1:] for row in DECISIONS],
    ids=[row[0] for row in DECISIONS],
)
def test_what_an_outcome_does_to_its_delivery(
    outcome: Outcome, fields: dict[str, object], others_pass: bool, expected: Settlement
) -> None:
    """Each outcome leads to one settlement, decided by the delivery's history and the policy alone."""
    delivery = replace(a_delivery(a_record(token_id=7)), **fields)
    settled = decide(outcome, delivery, NOW, POLICY, jitter=0.5, destination_succeeded_since_first_failure=others_pass)
    assert settled == expected

"""What dead letters' reasons are about: the texts that uploaders write, and those of endpoints."""

import pytest

from gateway.operations.advice import ADVICE, ReasonKind, by_kind, kind_of
from spool.records import Form
from uploaders.base import Refused
from uploaders.http.confirmation import Answer
from uploaders.http.responses import judge


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("HTTP 400: agent_id is missing", ReasonKind.REFUSED),
        ("PutObject: EntityTooLarge", ReasonKind.TOO_LARGE),
        ("longer than max_request_bytes = 6 as auto: raise that", ReasonKind.TOO_LARGE),
        ("given up after 24.0 h: HTTP 500: broken", ReasonKind.GIVEN_UP),
        ("given up after 24.0 h: HTTP 404: Call log not found", ReasonKind.UNKNOWN_CALL),
        ("the record's own token is no longer stored: set a token", ReasonKind.TOKEN),
        ("chunk 3 of record a-1 is damaged: its checksum differs", ReasonKind.UNREADABLE),
        ("a bucket does not accept the form notice", ReasonKind.WRONG_KIND),
        ("something new", ReasonKind.OTHER),
        ("", ReasonKind.OTHER),
        (None, ReasonKind.OTHER),
    ],
)
def test_a_reason_has_a_kind(reason: str | None, kind: ReasonKind) -> None:
    """What is to be done follows from a few kinds, found in the text."""
    assert kind_of(reason) is kind


def test_what_an_endpoint_refuses_for_its_size_is_known_as_that() -> None:
    """The text that a 413 leads to is recognised, whatever the endpoint says."""
    outcome = judge(Answer(413, b"no"), Form.DETAIL, sent_bytes=9, now=0)
    assert isinstance(outcome, Refused)
    assert kind_of(outcome.reason) is ReasonKind.TOO_LARGE


def test_every_kind_has_advice() -> None:
    """No dead letter is without a word about what to do."""
    assert set(ADVICE) == set(ReasonKind)


def test_kinds_are_put_together_over_lanes() -> None:
    """Reasons of one kind add up; the most frequent kind comes first, with its most frequent reason."""
    found = by_kind([{"HTTP 400: a": 1, "HTTP 409: b": 2}, {"HTTP 400: a": 2, "x": 4}])
    assert [(one.kind, one.count, one.example) for one in found] == [
        (ReasonKind.REFUSED, 5, "HTTP 400: a"),
        (ReasonKind.OTHER, 4, "x"),
    ]

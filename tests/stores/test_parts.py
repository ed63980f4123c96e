"""What a store knows of a document beside its bytes."""

import json

import pytest

from spool.records import Form
from uploaders.stores.parts import MAX_TEXT, Head, PartKind, key_text, kind_of, moment, read_head, storable_text


@pytest.mark.parametrize(
    ("event", "form", "kind"),
    [
        ("call_started", Form.WHOLE, PartKind.START),
        ("call_ended", Form.WHOLE, PartKind.END),
        ("call_ended", Form.CORE, PartKind.END),
        ("call_ended", Form.DETAIL, PartKind.DETAIL),
        ("call_log", Form.DETAIL, PartKind.DETAIL),
        ("call_log", Form.WHOLE, PartKind.CALL),
        ("call_detail", Form.WHOLE, PartKind.DETAIL),
        ("s3_reference", Form.WHOLE, PartKind.REFERENCE),
        ("call_ended", Form.NOTICE, PartKind.REFERENCE),
        ("recording_ready", Form.WHOLE, PartKind.UPDATE),
        ("an event of tomorrow", Form.WHOLE, PartKind.UPDATE),
    ],
)
def test_each_event_and_form_is_one_kind_of_part(event: str, form: Form, kind: PartKind) -> None:
    """The form says whether it is a detail, else the event says what it is; an unknown event is an update."""
    assert kind_of(event, form) is kind


def test_a_head_holds_what_lists_need() -> None:
    """Ids, times, reason and figures are read out of the document, which is not changed for it."""
    document = {
        "agent_id": "a", "customer_number": "+49", "environment": "dev", "call_started_at": "2026-11-28T10:00:00+01:00",
        "call_ended_at": 1764320460.5, "call_ended_reason": "completed",
        "summary_metrics": {"total_turns": 4, "total_tokens": 900, "avg_latency": 1.25},
        "telemetry_summary": {"total_spans": 40, "error_count": 1},
    }  # fmt: skip
    assert read_head(json.dumps(document).encode()) == Head(
        "a", "+49", "dev", 1795856400000, 1764320460500, "completed",
        {"turns": 4, "tokens": 900, "average_latency_seconds": 1.25, "spans": 40, "errors": 1},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("document", "head"),
    [
        (b"{}", Head()),
        (b"[]", Head()),
        (b"no JSON", Head()),
        (b'{"agent_id": ["a"], "customer_number": true, "call_started_at": {}, "call_ended_reason": null}', Head()),
        (b'{"agent_id": 17, "customer_number": 4930123456789012345}', Head("17", "4930123456789012345")),
        (b'{"agent_id": "a\\u0000b\\ud800c"}', Head("a\ufffdb\ufffdc")),
        (b'{"other": "\\udfff", "agent_id": "a", "summary_metrics": {"total_turns": 1e400}}', Head("a")),
        (b'{"agent_id": "a", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Head()),
        (b'{"agent_id": "first", "agent_id": "last"}', Head("last")),
        (b'{"transcript_json": [{"role": "user"}, {"role": "assistant"}]}', Head(summary={"turns": 2})),
        (b'{"summary_metrics": {"total_turns": true, "total_tokens": "9"}, "telemetry_summary": []}', Head()),
        (b'{"summary_metrics": {"total_tokens": 1234567890123456789012345}}', Head()),
        (b'{"agent_id": "\\udfff", "summary_metrics": {"total_tokens": 1' + b"0" * 400 + b"}}", Head("\ufffd")),
        (b'{"agent_id": "a", "transcript_json": {}, "summary_metrics": {"total_turns": NaN}}', Head("a")),
    ],
)
def test_what_cannot_be_read_leaves_itself_out(document: bytes, head: Head) -> None:
    """A value of an unexpected type, or one that no column takes, refuses nothing; the others are read."""
    assert read_head(document) == head


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (1764320400, 1764320400000),
        (1764320400.25, 1764320400250),
        (1764320400123, 1764320400123),
        (1764320400123456, 1764320400123),
        (1764320400123456789, 1764320400123),
        ("1764320400", 1764320400000),
        ("1764320400.25", 1764320400250),
        ("1764320400123", 1764320400123),
        ("1764320400123456789", 1764320400123),
        ("2025-11-28T09:00:00", 1764320400000),
        ("2025-11-28T10:00:00+01:00", 1764320400000),
        ("2025-11-28T09:00:00Z", 1764320400000),
        (True, None),
        ("yesterday", None),
        ("", None),
        (-1, None),
        (float("nan"), None),
        (10**30, None),
        (10**400, None),
        ("0001-01-01T00:00:00+14:00", None),
        (None, None),
    ],
)
def test_moments_come_in_all_their_dialects(value: object, milliseconds: int | None) -> None:
    """ISO 8601 and a Unix time in any unit, also as text, mean the same moment; a time without an offset is UTC."""
    assert moment(value) == milliseconds


def test_distinct_ids_have_distinct_keys() -> None:
    """Characters that no database takes are replaced in a key without two ids becoming one."""
    ids = [
        "a\0b",
        "a\ufffdb",
        "a\ud800b",
        "a" * MAX_TEXT,
        "a" * MAX_TEXT + "b",
        "a" * MAX_TEXT + "c",
        "",
        "ä",
        "room 7",
    ]
    keys = [key_text(each) for each in ids]
    assert len(set(keys)) == len(ids)
    assert all(len(key) <= MAX_TEXT and storable_text(key) == key for key in keys)
    assert key_text("room 7") == "room 7"

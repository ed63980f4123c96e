"""Messages: what a delivery says in Kafka is what a worker reads back, and what cannot be read says why."""

import hashlib

import pytest

from spool.records import Delivery, Form
from tests.uploaders.deliveries import ACCEPTED_AT, a_delivery, a_record
from uploaders.kafka.messages import BadMessage, Headers, dead_message, message_of, read_message, topic_of
from uploaders.kafka.options import Topics
from uploaders.stores.parts import Part, PartKind, key_text

TOPICS = Topics()
VALUE = b'{"call_id": "call-1", "agent_id": "a", "n": 1.10}'


def read_back(delivery: Delivery, value: bytes = VALUE) -> Part:
    message = message_of(delivery, value, TOPICS)
    return read_message(message.topic, message.key, message.value, message.headers, 0, TOPICS)


@pytest.mark.parametrize(
    ("event", "form", "topic", "kind"),
    [
        ("call_started", Form.WHOLE, "call_started", PartKind.START),
        ("call_ended", Form.WHOLE, "call_ended", PartKind.END),
        ("call_ended", Form.CORE, "call_ended", PartKind.END),
        ("call_log", Form.WHOLE, "call_ended", PartKind.CALL),
        ("call_ended", Form.DETAIL, "call_details", PartKind.DETAIL),
        ("call_ended", Form.REDUCED, "call_details", PartKind.DETAIL),
        ("call_detail", Form.WHOLE, "call_details", PartKind.DETAIL),
        ("call_ended", Form.NOTICE, "call_details", PartKind.REFERENCE),
        ("s3_reference", Form.WHOLE, "call_details", PartKind.REFERENCE),
        ("recording_ready", Form.WHOLE, "call_details", PartKind.UPDATE),
    ],
)
def test_every_event_has_its_topic_and_is_read_back(event: str, form: Form, topic: str, kind: PartKind) -> None:
    """The topic follows from what a delivery says of its call, and the part is that of the record it came from."""
    record = a_record(event=event, digest=bytes(range(32)), tenant="acme")
    part = read_back(a_delivery(record, form))
    assert topic_of(TOPICS, event, form) == topic
    assert (part.kind, part.project, part.call_id, part.event) == (kind, "acme", "call-1", event)
    assert (part.digest, part.accepted_at, part.source_uid) == (record.digest, ACCEPTED_AT, record.uid)
    assert part.document == VALUE


@pytest.mark.parametrize("call_id", ["call-1", "Anruf ü 通话", "nul\0", "lone \ud800", "x" * 2000])
def test_a_call_id_stays_the_same_call(call_id: str) -> None:
    """Whatever an agent calls its call, through Kafka it has the same key in a store as without."""
    assert read_back(a_delivery(a_record(call_id=call_id))).call_id == key_text(call_id)


def test_what_others_write_is_read_by_its_topic() -> None:
    """A producer without our headers gets its call put together, too: identity is what it wrote."""
    part = read_message("call_started", b"k", VALUE, (), 7, TOPICS)
    assert (part.kind, part.event, part.call_id, part.accepted_at) == (PartKind.START, "call_started", "call-1", 7)
    assert part.digest == hashlib.sha256(VALUE).digest()
    assert read_message("call_ended", b"k", b'{"a": 1}', (), 0, TOPICS).call_id == "k"
    assert read_message("call_ended", None, b'{"call_id": 17}', (), 0, TOPICS).call_id == "17"


GOOD = dict(message_of(a_delivery(), VALUE, TOPICS).headers)


@pytest.mark.parametrize(
    ("key", "value", "headers", "reason"),
    [
        (b"k", None, {}, "no value"),
        (None, b'{"a": 1}', {}, "names no call"),
        (b"k", b"[1]", {}, "not a JSON object"),
        (b"k", b"\xff", {}, "not a JSON object"),
        (b"\xff", b"{}", {}, "not UTF-8"),
        (b"k", VALUE, GOOD | {"v": b"2"}, "version 2, this callspool reads 1"),
        (None, VALUE, GOOD, "no key"),
        (b"k", VALUE, {"v": b"1"}, "no header form"),
        (b"k", VALUE, GOOD | {"form": b"half"}, "cannot be read"),
        (b"k", VALUE, GOOD | {"digest": b"xyz"}, "cannot be read"),
        (b"k", VALUE, GOOD | {"accepted-at": b"soon"}, "cannot be read"),
        (b"k", VALUE, GOOD | {"accepted-at": b"-1"}, "no time between 1970 and 9999"),
        (b"k", VALUE, GOOD | {"accepted-at": b"9" * 30}, "no time between 1970 and 9999"),
        (b"k", VALUE, GOOD | {"digest": b"00"}, "1 bytes: SHA-256 has 32"),
    ],
)
def test_what_cannot_be_read_says_why(
    key: bytes | None, value: bytes | None, headers: dict[str, bytes], reason: str
) -> None:
    """The reason of a dead message is a sentence, whatever is wrong."""
    with pytest.raises(BadMessage, match=reason):
        read_message("call_ended", key, value, tuple(headers.items()), 0, TOPICS)


def test_a_dead_message_is_as_it_came_with_its_reason() -> None:
    """Key, value and headers are kept, so that it can be written again; of two reasons the last one stands."""
    headers: Headers = (("v", b"1"), ("dead-reason", b"old"), ("event", b"call_ended"))
    dead = dead_message(TOPICS, b"k", b"v", headers, "PostgreSQL refuses it", "call_ended [3] at 7")
    assert (dead.topic, dead.key, dead.value) == ("calls_dead", b"k", b"v")
    assert dict(dead.headers) == {
        "v": b"1", "event": b"call_ended", "dead-reason": b"PostgreSQL refuses it",
        "dead-origin": b"call_ended [3] at 7",
    }  # fmt: skip

"""Messages: what a delivery is in Kafka, and the part of a call that a message is read back as.

Pure. The key is the call id, so that one call is in one partition; the value is the JSON document, unchanged; what a
reader needs besides stands in headers:

    v                 1
    idempotency-key   the same for each attempt, through restarts
    digest            SHA-256 of what was posted, in hex: with call id and event the identity of a part
    event, form       what it says of its call, and which form of the record it is
    project           the tenant; missing where there is one only
    agent-id          if known
    accepted-at       when the sidecar had it on disk, in milliseconds

A message of another producer, without these headers, is read as what its topic says.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from spool.moments import LATEST
from spool.records import Delivery, Form
from uploaders.kafka.options import Topics
from uploaders.stores.parts import (
    Head,
    Part,
    PartKind,
    key_text,
    kind_of,
    read_head,
    shown_as_of,
    storable_text,
)

VERSION: Final = "1"
DIGEST_BYTES: Final = 32
Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What is written to a topic."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


class BadMessage(ValueError):
    """It cannot be read as a part of a call; says why."""


def topic_of(topics: Topics, event: str, form: Form) -> str:
    """Where a delivery goes."""
    kind = kind_of(event, form)
    if kind is PartKind.START:
        return topics.started
    return topics.ended if kind in {PartKind.END, PartKind.CALL} else topics.details


def message_of(delivery: Delivery, value: bytes, topics: Topics) -> Message:
    """The message of a delivery whose document is `value`."""
    record = delivery.record
    said = {
        "v": VERSION,
        "idempotency-key": delivery.idempotency_key,
        "digest": record.digest.hex(),
        "event": storable_text(record.event),
        "form": delivery.form.value,
        "project": record.tenant,
        "agent-id": record.agent_id,
        "accepted-at": str(record.accepted_at),
        **record.trace_headers,
    }
    headers = tuple([(name, _encoded(text)) for name, text in said.items() if text is not None])
    return Message(topic_of(topics, record.event, delivery.form), _encoded(record.call_id), value, headers)


def dead_message(
    topics: Topics, key: bytes | None, value: bytes | None, headers: Headers, reason: str, origin: str
) -> Message:
    """What a worker could not store, as it came, with the reason; `origin` is its topic, partition and offset."""
    kept = tuple([(name, text) for name, text in headers if name not in {"dead-reason", "dead-origin"}])
    said = (("dead-reason", _encoded(reason)), ("dead-origin", _encoded(origin)))
    return Message(topics.dead, key or b"", value or b"", (*kept, *said))


def read_message(
    topic: str, key: bytes | None, value: bytes | None, headers: Headers, timestamp: int, topics: Topics
) -> Part:
    """The part that a message holds. Raises `BadMessage`."""
    if not value:
        raise BadMessage("the message has no value")
    said = dict(headers)
    if "v" not in said:
        return _foreign(topic, key, value, timestamp, topics)
    version = _decoded(said["v"])
    if version != VERSION:
        raise BadMessage(f"the message has version {version[:20]}, this callspool reads {VERSION}")
    if not key:
        raise BadMessage("the message has no key: that is the call id")
    try:
        form, digest = Form(_decoded(said["form"])), bytes.fromhex(_decoded(said["digest"]))
        event, accepted_at = _decoded(said["event"]), int(said["accepted-at"])
        uid = _decoded(said["idempotency-key"]).removesuffix(f"-{form}")
    except KeyError as error:
        raise BadMessage(f"the message has no header {error.args[0]}") from error
    except ValueError as error:
        raise BadMessage(f"a header of the message cannot be read: {error}") from error
    if not 0 <= accepted_at <= LATEST:
        raise BadMessage("the header accepted-at is no time between 1970 and 9999, in milliseconds")
    if len(digest) != DIGEST_BYTES:
        raise BadMessage(f"the header digest has {len(digest)} bytes: SHA-256 has {DIGEST_BYTES}")
    return _part(kind_of(event, form), _decoded(said.get("project", b"")), _decoded(key), event, digest, accepted_at,
                 uid, value)  # fmt: skip


class _Identity(msgspec.Struct):
    call_id: str | int | None = None


def _foreign(topic: str, key: bytes | None, value: bytes, timestamp: int, topics: Topics) -> Part:
    """What another producer wrote: a call log that names its call, or whose key does."""
    kinds: Mapping[str, tuple[PartKind, str]] = {
        topics.started: (PartKind.START, "call_started"),
        topics.ended: (PartKind.END, "call_ended"),
        topics.details: (PartKind.DETAIL, "call_detail"),
    }
    kind, event = kinds[topic]
    try:
        named = msgspec.json.decode(value, type=_Identity).call_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"the message is not a JSON object with a call_id: {error}") from error
    call_id = str(named) if named not in {None, ""} else _decoded(key or b"")
    if not call_id:
        raise BadMessage("the message names no call: it has neither call_id nor a key")
    digest = hashlib.sha256(value).digest()
    accepted_at = min(max(timestamp, 0), LATEST)  # a producer may say anything
    return _part(kind, "", call_id, event, digest, accepted_at, f"kafka-{digest.hex()[:16]}", value)


def _part(
    kind: PartKind, project: str, call_id: str, event: str, digest: bytes, accepted_at: int, uid: str, value: bytes
) -> Part:
    head = Head() if kind is PartKind.DETAIL else read_head(value)
    return Part(
        project=key_text(project),
        call_id=key_text(call_id),
        kind=kind,
        digest=digest,
        accepted_at=shown_as_of(kind, head, accepted_at),
        source_uid=storable_text(uid),
        event=storable_text(event),
        document=value,
        head=head,
    )


def _encoded(text: str) -> bytes:
    """UTF-8, with lone surrogates as they are: whoever reads it back has the same text."""
    return text.encode(errors="surrogatepass")


def _decoded(data: bytes) -> str:
    try:
        return data.decode(errors="surrogatepass")
    except UnicodeDecodeError as error:
        raise BadMessage(f"the message has a key or header that is not UTF-8: {error.reason}") from error

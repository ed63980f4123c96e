"""The documents of the admin API about deliveries that have not ended; the command line reads and writes the same.

Times are ISO 8601 in UTC, spans of time seconds, sizes bytes.
"""

from enum import StrEnum

import msgspec

from gateway.trace import RecordTrace

LIMIT = 200
"""How many deliveries one request looks at, unless it asks for fewer: a request takes milliseconds, never long."""
LARGEST_LIMIT = 500


class OrderName(StrEnum):
    """What can be ordered."""

    REPLAY = "replay"
    """Send dead letters again."""
    DISCARD = "discard"
    """Give dead letters up."""
    RETRY = "retry"
    """Try now what is queued and was to be tried later."""
    REROUTE = "reroute"
    """Move what is queued or dead to another destination."""
    REPLACE_TOKEN = "replace-token"
    """Send with another key what is queued or dead."""


class Select(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which deliveries are meant: those of which all of this is true."""

    states: tuple[str, ...] = ()
    """`dead`, `ready`, `waiting`, `held`, or `queued` for the last three; empty: those that the request is about."""
    destination: str | None = None
    form: str | None = None
    reason: str | None = None
    """A text in the reason, in capitals or not."""
    older_than: float | None = None
    newer_than: float | None = None
    """A dead letter's age counts from when it became one, any other delivery's from when its call log was accepted."""
    target: str | None = None
    """A call id, a record id, or a record id with a form and a destination behind it: `1f0c9d2e-7/detail/endpoint`."""


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step of an order: it is carried out for what one page of the selection holds."""

    select: Select
    cursor: str | None = None
    """Where the step before ended; None for the first."""
    dry_run: bool = False
    """Say what the step is about, and change nothing."""
    to: str | None = None
    """For `reroute`: the destination to move to."""
    token: str | None = None
    """For `replace-token`: the key to send with. It is stored like an agent's own, and never shown."""


class OrderStep(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of an order did."""

    matched: int
    """Deliveries that the selection took."""
    matched_bytes: int
    """What their documents take as JSON."""
    done: int
    """Deliveries of which the order was carried out, those included that went along with a matched one."""
    cursor: str | None
    """For the next step; None when the order is done."""


class DeliveryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that has not ended."""

    key: str
    """Names it in orders: record id, form and destination."""
    record_id: str
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    destination: str
    form: str
    lane: str
    state: str
    reason: str | None
    """Of the last failure, or why it is set aside."""
    attempts: int
    """How many attempts have failed."""
    accepted_at: str
    since: str
    """When it became a dead letter; for any other delivery when its call log was accepted."""
    age_seconds: float
    """From `since` to now."""
    next_attempt_at: str | None
    """When it is tried next; None unless it is ready."""
    bytes: int
    """What its document takes as JSON, before any encoding."""
    idempotency_key: str


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of deliveries in commit order; perhaps empty, though there are more behind it."""

    deliveries: tuple[DeliveryEntry, ...]
    cursor: str | None
    """For the next page; None when this was the last."""


class DeliveryStory(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of one delivery."""

    delivery: DeliveryEntry
    advice: str
    """What to do about its reason."""
    record: RecordTrace
    preview: str | None
    """How its document begins, with what looks like a secret masked; None where it cannot be read."""
    preview_complete: bool
    """Whether that is all of it."""


# The format of exported dead letters: a folder with an index and a file for each document; and how they come back.
#
#     DIRECTORY/dead-letters.ndjson       the index: a header, then a line for each dead letter, in commit order
#     DIRECTORY/documents/*.json.zst      what each would have sent, as JSON, compressed with zstd
#
# The index gets its name last, when all that it names is on the disk. Agents' keys are in none of it.

INDEX = "dead-letters.ndjson"
DOCUMENTS = "documents"
FORMAT = "callspool.dead-letters/1"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the index."""

    format: str
    """`callspool.dead-letters/1`."""
    exported_at: str
    callspool: str
    """The version that wrote it."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A further line: a dead letter, or what is held with one. Times are ISO 8601 in UTC."""

    record_id: str
    """With the form it makes the idempotency key, which an import keeps."""
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    destination: str
    form: str
    state: str
    """`dead`, or `held` with the core that stands before it."""
    reason: str | None
    attempts: int
    accepted_at: str
    since: str
    """When it became a dead letter; for what is held when its call log was accepted."""
    idempotency_key: str
    file: str | None
    """Its document, below the folder; None where that could not be read."""
    sha256: str | None
    """Of the file."""
    file_bytes: int
    problem: str | None
    """Why the document could not be read, if so."""


IMPORT_TYPE = "application/vnd.callspool.dead-letter"
"""The content type of an import: a line of JSON (`ImportHeader`), then the exported documents, byte for byte."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the documents behind that line."""

    form: str
    bytes: int
    """As it lies there, compressed."""
    sha256: str


class ImportHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The call log that is imported, and its new destination."""

    to: str
    record_id: str
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    documents: tuple[Document, ...]
    key: str | None = None
    """To be sent with, where the destination forwards agents' keys."""


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, once it is durable."""

    record_id: str
    duplicate: bool
    """Whether it was here already: nothing was stored."""

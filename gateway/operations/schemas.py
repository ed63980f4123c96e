"""The documents of the admin API: what it answers, and the command line reads; the orders that it takes.

Times are ISO 8601 in UTC, spans of time seconds, sizes bytes. It imports little: every command that asks a gateway
loads it.
"""

from enum import StrEnum

import msgspec

from gateway.trace_schemas import RecordTrace

LIMIT = 200
"""How many deliveries one request looks at, unless it asks for fewer: a request takes milliseconds, never long."""
LARGEST_LIMIT = 500


class OrderName(StrEnum):
    """The orders."""

    REPLAY = "replay"
    """Send dead letters again."""
    DISCARD = "discard"
    """Delete dead letters for good."""
    RETRY = "retry"
    """Retry queued deliveries now, without waiting for their back-off."""
    REROUTE = "reroute"
    """Move queued deliveries and dead letters to another destination."""
    REPLACE_TOKEN = "replace-token"
    """Replace the key of queued deliveries and dead letters."""


class Select(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A filter of deliveries: it selects those that match all of its fields."""

    states: tuple[str, ...] = ()
    """`dead`, `ready`, `waiting`, `held`, or `queued` for the last three; empty: those that the order is for."""
    destination: str | None = None
    form: str | None = None
    reason: str | None = None
    """A text in the reason; case does not matter."""
    older_than: float | None = None
    newer_than: float | None = None
    """The age counts from `since`: when it became a dead letter, else when its call log was accepted."""
    target: str | None = None
    """A call id, a record id, or a record id followed by form and destination: `1f0c9d2e-7/detail/endpoint`."""
    kind: str | None = None
    """The kind of the reason: `refused`, `too_large`, `unknown_call`, `token`, `unreadable`, `wrong_kind`, `given_up`
    or `other`."""
    keys: tuple[str, ...] = ()
    """Ids of deliveries, each with form and destination, at most 200. Of the other fields, only `states` then applies.
    Deliveries that have ended meanwhile are left out."""


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step of an order, for one page of the selection."""

    select: Select
    cursor: str | None = None
    """Where the step before ended; None for the first."""
    dry_run: bool = False
    """Report what the step would change, and change nothing."""
    to: str | None = None
    """For `reroute`: the destination to move to."""
    token: str | None = None
    """For `replace-token`: the key to send with. It is stored like an agent's own, and never shown."""


class OrderStep(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of an order did."""

    matched: int
    """Deliveries that the selection matched."""
    matched_bytes: int
    """The size of their documents as JSON."""
    done: int
    """Deliveries for which the order was carried out, those that depend on a matched one included."""
    left_out: int = 0
    """In a dry run: how many of the matched ones a reroute would not move."""
    along: int = 0
    """In a dry run: deliveries that depend on a matched one, and would be moved, freed or discarded with it."""
    cursor: str | None
    """For the next step; None when the order is done."""


class DeliveryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that has not ended."""

    key: str
    """Its id in orders: record id, form and destination."""
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
    """The reason of the last failure, or why it waits."""
    attempts: int
    """How many attempts have failed."""
    accepted_at: str
    since: str
    """When it became a dead letter; for any other delivery, when its call log was accepted."""
    age_seconds: float
    """From `since` to now."""
    next_attempt_at: str | None
    """When the next attempt is due; None unless it is ready."""
    bytes: int
    """The size of its document as JSON, before any encoding."""
    idempotency_key: str
    via: str | None = None
    """The gateways that passed it on, as `Via` lists them."""
    tenant: str | None = None
    """Whose call it is, where there are tenants."""


class DeliveryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of deliveries in commit order. It may be empty even if more pages follow."""

    deliveries: tuple[DeliveryEntry, ...]
    cursor: str | None
    """For the next page; None when this was the last."""


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about one delivery."""

    delivery: DeliveryEntry
    advice: str
    """What to do about its reason."""
    record: RecordTrace
    preview: str | None
    """The start of its document, with secrets masked; None if it cannot be read."""
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
SEALED_SUFFIX = ".sealed"
"""How names of encrypted documents end."""
FORMAT = "callspool.dead-letters/1"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the index."""

    format: str
    """`callspool.dead-letters/1`."""
    exported_at: str
    callspool: str
    """The version that wrote it."""


def document_name(entry: DeliveryEntry) -> str:
    """The path of a delivery's document below the folder, but for the suffix of encrypted ones.

    A form of a record is the same document for every destination; only a notice names an object of its own.
    """
    from uploaders.durable_file import safe_name  # noqa: PLC0415  # only an export needs it

    whose = f".{safe_name(entry.destination)}" if entry.form == "notice" else ""
    return f"{DOCUMENTS}/{safe_name(entry.record_id)}.{entry.form}{whose}.json.zst"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A further line: a dead letter, or a delivery held with one. Times are ISO 8601 in UTC."""

    record_id: str
    """With the form it makes the idempotency key, which an import keeps."""
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    destination: str
    form: str
    state: str
    """`dead`, or `held` with the core before it."""
    reason: str | None
    attempts: int
    accepted_at: str
    since: str
    """When it became a dead letter; for a held delivery, when its call log was accepted."""
    idempotency_key: str
    file: str | None
    """The path of its document, below the folder; None if the document could not be read."""
    sha256: str | None
    """Of the file."""
    file_bytes: int
    problem: str | None
    """Why the document could not be read, if so."""
    via: str | None = None
    """The gateways that passed it on, as `Via` lists them; an import keeps them, so that it is not sent back there."""
    tenant: str | None = None
    """Whose call it is, where there are tenants; an erasure of a tenant's call looks at it."""

    @classmethod
    def of(
        cls, entry: DeliveryEntry, file: str | None, digest: str | None, size: int, problem: str | None
    ) -> "DeadLetter":
        """The line about a delivery: `size` and `digest` are those of the file."""
        shared = {name: getattr(entry, name) for name in cls.__struct_fields__ if name in entry.__struct_fields__}
        return cls(**shared, file=file, sha256=digest, file_bytes=size, problem=problem)


IMPORT_TYPE = "application/vnd.callspool.dead-letter"
"""The content type of an import: a line of JSON (`ImportHeader`), then the exported documents, byte for byte."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the documents that follow that line."""

    form: str
    bytes: int
    """Its size there, compressed."""
    sha256: str


class ImportHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The call log that is imported, and its new destination."""

    to: str
    record_id: str
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    documents: tuple[Document, ...]
    key: str | None = None
    """The key to send with, if the destination forwards agents' keys."""
    via: str | None = None
    """The gateways that passed it on, as `Via` lists them."""
    tenant: str | None = None
    """Whose call it is, where there are tenants."""


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The response, after the import is durable."""

    record_id: str
    duplicate: bool
    """Whether the spool had it already, so that nothing was stored."""


# How the gateway and its destinations are: `/api/status`, and the answer to an order to resume.


class Event(msgspec.Struct, frozen=True):
    """An event that may matter to operators."""

    at: str
    """ISO 8601 in UTC."""
    level: str
    """`info`, `warning` or `error`."""
    text: str


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One lane of a destination: counts of deliveries."""

    lane: str
    ready: int
    waiting: int
    held: int
    queued: int
    """Still to be delivered: ready, waiting and held together."""
    queued_bytes: int
    in_flight: int
    concurrency: int
    """How many may be in flight at once, adapted to what the destination can handle."""
    dead: int
    delivered: int
    expired: int
    discarded: int
    oldest_seconds: float | None
    """Age of the oldest record still to be delivered."""
    oldest_ready_seconds: float | None = None
    """The same for deliveries that wait only for their destination, not for another delivery of their call."""

    @property
    def pending(self) -> int:
        """Queued deliveries without notices that wait for their object, which say nothing about cores."""
        return self.queued if self.lane == "detail" else self.ready + self.held

    @property
    def pending_seconds(self) -> float | None:
        """Age of the oldest of these; a detail behind an undelivered core waits, too."""
        if self.oldest_ready_seconds is None and self.lane == "detail":
            return self.oldest_seconds
        return self.oldest_ready_seconds


class DeadReason(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters of one kind, among the newest ones of a destination."""

    kind: str
    count: int
    example: str
    """The most frequent reason."""
    advice: str
    """What to do."""


class DestinationReport(msgspec.Struct, frozen=True, kw_only=True):
    """One destination, with its lanes."""

    name: str
    type: str
    """Empty if the configuration no longer has it."""
    target: str = ""
    """Its address, without secrets; empty if the configuration no longer has it."""
    configured: bool
    up: bool
    reason: str
    """Why it is down; empty while it is up."""
    breaker: str
    """`closed`, `open` or `half_open`."""
    since: str | None
    """Since when it is down."""
    refused_tokens: int
    """Tokens of agents that it refuses; deliveries that need them are held."""
    retry_at: str | None
    dead: int
    dead_reasons: tuple[DeadReason, ...] = ()
    """Why, the most frequent kind first; some seconds old."""
    lanes: tuple[LaneStatus, ...]


class OutboxReport(msgspec.Struct, frozen=True, kw_only=True):
    """One outbox of the SDK; the counts are since the start."""

    path: str
    state: str
    """`missing`, `watched`, `waiting` or `unusable`."""
    reason: str
    rows: int
    """Rows in it: in use by the SDK, refused, or still to be rescued."""
    rescued: int
    duplicate: int
    superseded: int
    refused: int


class SpoolReport(msgspec.Struct, frozen=True, kw_only=True):
    """The spool in bytes."""

    used_bytes: int
    limit_bytes: int
    reserve_bytes: int
    """The last part of the quota, which large call logs leave to small ones."""
    full_of_details: bool
    """Whether large call logs are refused, because only the reserve is left."""
    unaccounted: int
    """Deliveries that the counters cannot account for. Must be 0."""
    failure: str | None


class DrainThrottleReport(msgspec.Struct, frozen=True, kw_only=True):
    """How details are throttled while calls are live."""

    live_calls: int
    throttled: bool
    """Whether details are sent at a lower rate because a call is live."""
    bytes_per_second: float | None
    """The rate limit of the details of all destinations together; None: no limit."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one of the three questions that an operator asks first."""

    state: str
    """`good`, `warn` or `bad`."""
    text: str
    """`Accepting: yes`."""
    detail: str


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The cause of a problem. In its texts, backticks mark commands and settings."""

    why: str
    tried: str
    """Times of the last and the next attempt; empty if there are no attempts."""
    todo: tuple[str, ...]
    """What to do, step by step."""
    command: str
    """The command that shows more; empty if there is none."""
    resume: str | None
    """The destination that can be tried at once."""
    until: str
    """How long this can continue."""
    then: str
    """What happens then."""
    runbook: str
    """The section of docs/runbooks.md about it."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the gateway in words, the same on the page, in `callspool status` and in `callspool top`."""

    level: str
    """`good`, `warn` or `bad`."""
    headline: str
    answers: tuple[Answer, ...]
    cause: Cause | None
    """The cause of the worst problem; None if there is nothing to do."""
    others: tuple[str, ...]
    """The other problems, a sentence each."""
    strip: str
    """The worst problem in a few words; empty if there is none."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the last minutes, and forecasts from them. None while not known yet."""

    accepted_per_minute: float | None
    ack_p99_seconds: float | None
    core_p95_seconds: float | None
    """From the acceptance of a call log to the delivery of its core."""
    commit_p99_seconds: float | None
    growth_bytes_per_minute: float | None
    full_in_seconds: float | None
    """Time until large call logs are refused; None: never at this rate, or not known."""
    drained_in_seconds: float | None
    """None: the backlog does not shrink, or that is not known."""
    shrinking: dict[str, tuple[str, ...]] = {}
    """By destination, the lanes of which less and less waits."""
    best_per_minute: int
    """The most deliveries of one minute in the last three hours."""
    disk_free_bytes: int | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the overview. Times are ISO 8601 in UTC."""

    version: str
    now: str
    phase: str
    """`starting`, `running` or `stopping`; `stopped` if a command opened the spool itself."""
    ready: bool
    """Whether posts can be accepted."""
    reasons: tuple[str, ...]
    """Why posts cannot be accepted."""
    attention: tuple[str, ...]
    """Problems that an operator should solve although posts are accepted."""
    runbook: str | None = None
    """The section of docs/runbooks.md about the first reason, else about the first of these problems."""
    spool: SpoolReport | None
    """None while the spool is not open."""
    drain_throttle: DrainThrottleReport | None
    """None while the spool is not open."""
    destinations: tuple[DestinationReport, ...]
    outboxes: tuple[OutboxReport, ...]
    events: tuple[Event, ...]
    """Recent events, the newest first."""
    pace: Pace | None = None
    verdict: Verdict | None = None
    complete: bool = True
    """False for clients that may not see calls and the responses of endpoints: then there are no events."""


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an order to resume."""

    destination: str
    waited: bool
    """Whether it was waiting; if so, one delivery is sent now, and one for each refused token."""


class Reloaded(msgspec.Struct, frozen=True):
    """The result of a reload."""

    applied: bool
    problems: tuple[str, ...] = ()
    """Problems of the new settings."""
    needs_restart: tuple[str, ...] = ()
    """Changed settings that only a restart applies."""

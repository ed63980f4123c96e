"""Plain data of the spool: records, deliveries, their states, and the legal transitions between these.

All times are integer milliseconds since the Unix epoch (UTC), all sizes bytes. What is made anew for every post is a
msgspec struct: a frozen dataclass of twelve fields takes eight times as long to make.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from time import time_ns
from typing import NamedTuple

from msgspec import Struct

from spool.live_calls import LostCall

Buffer = bytes | bytearray | memoryview

Clock = Callable[[], int]
"""Milliseconds since the Unix epoch."""


def system_clock() -> int:
    """The `Clock` of the machine."""
    return time_ns() // 1_000_000


class Form(StrEnum):
    """Which part of a record a delivery carries."""

    WHOLE = "whole"
    """The call log as it came, in one piece."""
    CORE = "core"
    """The small record of a large call log: everything a dashboard needs at once."""
    DETAIL = "detail"
    """The large rest of a large call log."""
    REDUCED = "reduced"
    """The detail without most of its spans, for an endpoint that accepts no more."""
    NOTICE = "notice"
    """A note to an endpoint that an object of this record lies in a bucket."""


DETAIL_FORMS = frozenset({Form.DETAIL, Form.REDUCED})
"""A record's detail, with all of its spans or with few."""
FORMS_AFTER_CORE = DETAIL_FORMS | {Form.NOTICE}
"""What makes sense only to somebody who has the core: it is held with a core that is a dead letter."""
FORMS_WITH_DETAIL = DETAIL_FORMS | {Form.WHOLE}
"""What holds the large rest of a record: it can be too large, and then go elsewhere or be given up for room."""
OBJECT_FORMS = frozenset({Form.WHOLE, Form.CORE, Form.DETAIL})
"""What a directory or a bucket has a name for."""
REQUEST_FORMS = OBJECT_FORMS | {Form.NOTICE}
"""What every endpoint takes; a reduced detail only where the destination reduces."""
NAME_ENDINGS = {Form.WHOLE: "", Form.CORE: ".core", Form.DETAIL: ".detail"}
"""How the name of a file or an object ends by its form, before what names its encoding."""


class Lane(StrEnum):
    """Deliveries of different lanes never wait for each other's slots."""

    CORE = "core"
    """Wholes, cores and notices: small, and sent at once."""
    DETAIL = "detail"
    """Details, reduced ones, and wholes that are large: drained when the network and the destination allow."""


class Fragment(StrEnum):
    """A stored part of a record's payload.

    A small record has one BODY. A large one has BASE, DERIVED and REST, each a run of JSON members without
    the braces around them, so that joining them makes any form of the record and nothing is stored twice.
    """

    BODY = "body"
    BASE = "base"
    DERIVED = "derived"
    REST = "rest"
    CALL_ID = "call_id"
    """Of a large record whose `call_id` came as a number: that, as it came."""


FRAGMENTS_OF: Mapping[Form, tuple[Fragment, ...]] = {
    Form.WHOLE: (Fragment.BODY, Fragment.BASE, Fragment.REST),
    Form.CORE: (Fragment.BODY, Fragment.BASE, Fragment.DERIVED),
    Form.DETAIL: (Fragment.REST,),
    Form.REDUCED: (Fragment.REST,),
    Form.NOTICE: (),
}
"""What each form of a record is made of, as far as that is stored."""


class WhenFull(StrEnum):
    """What is done about a record that the quota has no room for."""

    REFUSE = "refuse"
    """It is refused; everything that is in the spool stays."""
    EXPIRE_DETAILS = "expire_details"
    """The oldest details are given up for it. Never a core, a whole, or a dead letter."""


class DeliveryState(IntEnum):
    """Where a delivery stands. The numbers are stored; the first three are the queue."""

    READY = 0
    """May be sent as soon as it is due."""
    WAITING = 1
    """An earlier delivery, of this call or of this record, must end first."""
    HELD = 2
    """Set aside with its reason until that is gone: a refused token, or a core that is a dead letter."""
    DEAD = 3
    """A dead letter: not tried again by itself, payload and reason kept."""
    DELIVERED = 4
    """Confirmed by the destination."""
    EXPIRED = 5
    """Given up by an expiry that the operator configured."""
    DISCARDED = 6
    """Given up by an operator's order."""

    @property
    def queued(self) -> bool:
        """Whether the delivery is still to be made without anyone's order."""
        return self <= DeliveryState.HELD

    @property
    def ended(self) -> bool:
        """Whether the delivery needs its payload no more."""
        return self >= DeliveryState.DELIVERED


LEGAL_TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.READY: frozenset(DeliveryState) - {DeliveryState.READY, DeliveryState.WAITING},
    DeliveryState.WAITING: frozenset(
        {
            DeliveryState.READY,
            DeliveryState.HELD,
            DeliveryState.DELIVERED,
            DeliveryState.EXPIRED,
            DeliveryState.DISCARDED,
        }
    ),
    DeliveryState.HELD: frozenset(DeliveryState) - {DeliveryState.HELD},
    DeliveryState.DEAD: frozenset(
        {
            DeliveryState.READY,
            DeliveryState.WAITING,
            DeliveryState.HELD,
            DeliveryState.DELIVERED,
            DeliveryState.DISCARDED,
        }
    ),
    DeliveryState.DELIVERED: frozenset(),
    DeliveryState.EXPIRED: frozenset(),
    DeliveryState.DISCARDED: frozenset(),
}
"""From each state, where a delivery may go.

What has not ended may always be found DELIVERED, by an attempt that was under way when an order moved it. A DEAD
detail that is replayed becomes HELD when its core is still dead.
"""


class StoredFragment(Struct, frozen=True):
    """How a fragment lies in the spool: `chunks` zstd frames that hold `raw_bytes` in `stored_bytes`."""

    chunks: int
    raw_bytes: int
    stored_bytes: int


class Record(Struct, frozen=True):
    """An accepted call log. `digest` is the SHA-256 of the decoded body without its token."""

    record_id: int
    uid: str
    """Unique among all spools: the id of the spool that accepted it, and its number there. Shown outside, part of
    every key."""
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    digest: bytes
    raw_bytes: int
    stored_bytes: int
    accepted_at: int
    token_id: int | None
    """Names the agent's own token in the spool's token table; never the token itself."""
    first_chunk: int
    fragments: Mapping[Fragment, StoredFragment]
    damaged: bool = False
    """What is stored of it does not match its checksum: nothing of it may be delivered."""
    tenant: str | None = None
    """Whose call it is, where there are tenants."""
    principal: str | None = ""
    """Who posted it (`principal_of`); None where that is not known."""
    via: str | None = None
    """The gateways that passed it on, as `Via` lists them; None where it came straight from its agent."""
    trace_context: str | None = None
    """`traceparent` and, behind a space, `tracestate`, as it was posted with (W3C Trace Context)."""

    @property
    def trace_headers(self) -> dict[str, str]:
        """The trace context as headers; none where it was posted without."""
        if self.trace_context is None:
            return {}
        parent, _, state = self.trace_context.partition(" ")
        return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}

    def bytes_of(self, form: "Form") -> int:
        """How many raw bytes of its payload a form carries: the forms of a record share them out."""
        fragments = self.fragments
        return sum([fragments[part].raw_bytes for part in FRAGMENTS_OF[form] if part in fragments])


TENANT_PREFIX = "tenant:"


def principal_of(tenant: str | None, key: str | None) -> str:
    """Who posts: the tenant, else a digest of the sender's key, else nobody in particular.

    The digest is kept in receipts, when the key itself is long gone: 128 bits of it, of which no key can be made.
    """
    if tenant is not None:
        return f"{TENANT_PREFIX}{tenant}"
    if not key:
        return ""
    return "key:" + sha256(b"callspool principal\0" + key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tenant_of(principal: str) -> str | None:
    """The tenant that a principal is; None where it is none."""
    return principal.removeprefix(TENANT_PREFIX) if principal.startswith(TENANT_PREFIX) else None


class OwnedCall(NamedTuple):
    """A call that is to be erased, and whose."""

    call_id: str
    tenant: str | None = None
    """None: of whoever has a call of this id; empty: of no tenant."""


class DeliveryKey(Struct, frozen=True):
    """Names one delivery in this spool."""

    record_id: int
    destination: str
    form: Form


class Delivery(Struct, frozen=True):
    """One form of a record, owed to one destination, as the dispatcher and the uploaders see it."""

    record: Record
    destination: str
    form: Form
    lane: Lane
    attempts: int
    """How many attempts have failed."""
    due_at: int
    """Not to be tried before this time."""
    first_failed_at: int | None
    """When the first of the failed attempts failed."""
    location: str | None = None
    """For a notice: where its object lies, as the object's delivery reported it."""

    @property
    def key(self) -> DeliveryKey:
        """What names this delivery in the spool."""
        return DeliveryKey(self.record.record_id, self.destination, self.form)

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt, through restarts; different for every other delivery of any spool."""
        return f"{self.record.uid}-{self.form}"


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery that a new record owes to a destination."""

    destination: str
    form: Form
    lane: Lane
    ordered: bool = True
    """Whether it waits its turn among the deliveries of its call; objects in a bucket do not."""
    after: str | None = None
    """A destination whose delivery of this record must end first (a notice waits for its object)."""
    last_write_wins: bool = True
    """Whether what comes last there replaces what came before: then nothing is sent that a later event supersedes."""
    held: bool = False
    """Whether it is set aside until somebody says whose record it is (`Spool.assign`)."""


class Outline(Struct, frozen=True):
    """What a list of calls shows of a call log, besides what every record has."""

    number_hint: str | None = None
    """The number of the caller without its middle: the whole number is in the payload alone."""
    length_ms: int | None = None
    ended_reason: str | None = None


NO_OUTLINE = Outline()


class NewRecord(Struct, frozen=True):
    """A checked call log that is to be accepted.

    `fragments` holds, for each fragment, the pieces whose concatenation is its raw bytes; they must not change
    until `accept` returns. `superseded_by` names an event: when a record of the same call with that event
    was accepted before, this one is recorded but owed to nobody.
    """

    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    digest: bytes
    raw_bytes: int
    token: str | None
    fragments: Mapping[Fragment, Sequence[Buffer]]
    deliveries: tuple[NewDelivery, ...]
    superseded_by: str | None = None
    superseded_everywhere: bool = False
    """Whether it then is owed to nobody at all: also not to destinations that keep every event of a call."""
    upload_key_hash: bytes | None = None
    """The upload address that this came through; it is marked as used in the same transaction."""
    origin: str | None = None
    """What it was called in the spool that it was exported from; it keeps that name, and with it its keys."""
    tenant: str | None = None
    principal: str = ""
    """Who posts it, by `principal_of`. Only posts of the same principal repeat, follow or supersede each other."""
    happened_at: int | None = None
    """When its event happened, by the times in it. What happened later than another event is not superseded by it."""
    idempotency_key: str | None = None
    """The sender's own identity of a post: with one, only a post with the same is a duplicate (spool.queue.accept)."""
    key_decides: bool = False
    """Whether one with the same key is a duplicate although its content differs: Vapi signs addresses in it anew."""
    closes: "ClosedTrace | None" = None
    """The spans that it was made of; they are deleted in the transaction that accepts it."""
    via: str | None = None
    """The gateways that passed it on, as `Record.via`."""
    trace_context: str | None = None
    """As `Record.trace_context`."""
    outline: Outline = NO_OUTLINE
    ends_call: bool = False
    """Whether its call has ended: what is kept of that while it is live is deleted in the same transaction."""
    loses: LostCall | None = None
    """The live call that it was made of because its agent is lost; it is not accepted if that changed since."""


AGENT_LOST = "agent_lost"
"""The `call_ended_reason` of a call log that is made because nothing came from its agent any more."""


# Traces: the spans of a call that is still going on.


class NewSpans(Struct, frozen=True):
    """Spans of one trace, from one post."""

    trace_id: bytes
    data: bytes
    """An OTLP document of them, in protobuf or JSON, as they came."""
    spans: int
    call_id: str | None = None
    agent_id: str | None = None
    ended: bool = False
    """Whether the root span is among them."""


class TraceRow(Struct, frozen=True):
    """Spans as they were stored."""

    row_id: int
    spans: int
    raw_bytes: int
    data: bytes | None
    """None: damaged, its checksum differs."""


class OpenTrace(Struct):
    """A trace that has spans here, or had some not long ago. Times in milliseconds, sizes in bytes."""

    trace_id: bytes
    principal: str
    call_id: str | None
    agent_id: str | None
    first_at: int
    last_at: int
    root_at: int | None
    spans: int
    raw_bytes: int
    closed: int


class ClosedTrace(Struct, frozen=True):
    """The rows of a trace that a new record was made of: they are deleted in the transaction that accepts it."""

    trace_id: bytes
    principal: str
    last_row: int
    spans: int
    raw_bytes: int


class Accepted(Struct, frozen=True):
    """The result of `accept`, returned once the record is durable."""

    uid: str
    stored_bytes: int
    raw_bytes: int
    digest: bytes
    duplicate: bool
    """An accepted record had the same call id, event and digest: nothing was stored."""
    superseded: bool
    """A later event of the call was accepted before: not sent to where it would replace that."""
    ready: tuple[Delivery, ...]
    """The new deliveries that may be sent at once."""
    two_phase: bool
    """Whether the accepted record (the first one, for a duplicate) is stored as core and detail."""


# Destinations by name and by number.


@dataclass(frozen=True, slots=True)
class DestinationIds:
    """The spool's id, and the numbers under which its database knows its destinations."""

    spool_id: str
    ids: dict[str, int]
    """Numbers by name."""
    names: dict[int, str]
    """Names by number."""

    def add(self, destinations: Mapping[int, str]) -> None:
        """Know destinations that were added since the start. For the event loop."""
        self.names.update(destinations)
        self.ids.update({name: destination_id for destination_id, name in destinations.items()})


# What a settled attempt does to its delivery ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination confirmed it; `location` says where it lies, if that is of use to a notice."""

    location: str | None = None


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again at `due_at`. `counted` is false where the attempt says nothing about this record."""

    due_at: int
    error: str
    counted: bool = True
    for_destination: bool = False
    """Whether it waits for its destination, and is due as soon as that accepts deliveries again (`Queue.make_due`)."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Set aside until `Queue.release` names the same token: the destination refuses what it authenticates by."""

    error: str
    token_id: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Make it a dead letter with this reason."""

    error: str


@dataclass(frozen=True, slots=True)
class Redirect:
    """The destination refuses it like this: others of the same record are owed from now on, to whomever.

    With `keep` it becomes a dead letter with `error` besides; without, they take its place and it is owed no more.
    What is owed already is not owed twice.
    """

    error: str
    to: tuple[NewDelivery, ...]
    keep: bool


Settlement = Delivered | RetryAt | Hold | DeadLetter | Redirect


@dataclass(frozen=True, slots=True)
class OfTenant:
    """One tenant's part of a queue; None: what belongs to none."""

    tenant: str | None


@dataclass(frozen=True, slots=True)
class Due:
    """A page of the queue: what may be sent now, and when the next one is due (None: nothing is left)."""

    deliveries: tuple[Delivery, ...]
    next_due_at: int | None


# Plain data: a circuit breaker that is open, as a restart is to know it.


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """Why a destination accepts no deliveries. Times are milliseconds since the Unix epoch."""

    cause: str
    """The uploaders' own word for why."""
    reason: str
    """What the destination did last."""
    since: int
    retry_at: int
    """When it is to be tried again."""
    probes: int
    """How often that was tried in vain."""


@dataclass(frozen=True, slots=True)
class BreakerUpdate:
    """What a restart is to know from now on: an open breaker, or that it is closed (None)."""

    snapshot: BreakerSnapshot | None


# Plain data: the progress of a multipart upload, so that it is resumed after a crash.


@dataclass(frozen=True, slots=True)
class PartProgress:
    """A part that was sent, or was about to be. `md5` is that of its bytes; `etag` None: no answer was seen."""

    size: int
    md5: bytes
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """An upload in parts that was begun for a delivery, and has not been forgotten."""

    delivery: DeliveryKey
    bucket: str
    object_key: str
    upload_id: str
    part_bytes: int
    """How large each part but the last is; the plan must stay the same for the upload to be resumed."""
    parts: Mapping[int, PartProgress] = field(default_factory=dict)


# Upload addresses: what the spool remembers of those that were given to agents.


@dataclass(frozen=True, slots=True)
class Upload:
    """A one-time address that was given to an agent for a PUT. Only the hash of its key is kept."""

    s3_key: str
    call_id: str
    token: str | None
    expires_at: int
    record_uid: str | None
    """The record that came through it; None until then."""
    digest: bytes | None
    """The digest of that record."""

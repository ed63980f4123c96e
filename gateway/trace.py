"""The trace of a call: what came of its records, shaped for people and for JSON.

Pure: the same document is served by the intake, served by the admin API, and read by the command line.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.trace_schemas import (
    AttemptTrace,
    CallTrace,
    DeliveryTrace,
    NewestTraces,
    NumberedTrace,
    RecordTrace,
    Stage,
)
from spool.records import FORMS_WITH_DETAIL, DeliveryState, Form, Fragment
from spool.stats import Attempt, TracedDelivery, TracedRecord
from uploaders.redact import redact


def trace_of(call_id: str, records: tuple[TracedRecord, ...]) -> CallTrace:
    """The trace of a call from its records in the spool; empty if there are none."""
    return CallTrace(call_id=call_id, records=tuple(_record(record) for record in records))


def newest_of(records: tuple[TracedRecord, ...]) -> NewestTraces:
    """The traces of the newest records."""
    numbered = [
        NumberedTrace(number=each.record.record_id, call_id=each.record.call_id, record=_record(each))
        for each in records
    ]
    return NewestTraces(records=tuple(numbered))


def instant(milliseconds: int) -> str:
    """A time in ISO 8601, UTC, with milliseconds: `2025-01-31T12:00:00.000Z`."""
    at = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _record(traced: TracedRecord) -> RecordTrace:
    record = traced.record
    stage = stage_of(traced)
    return RecordTrace(
        record_id=record.uid,
        event=record.event,
        agent_id=record.agent_id,
        environment=record.environment,
        accepted_at=instant(record.accepted_at),
        upload_method="single" if _is_whole(traced) else "two_phase",
        sha256=record.digest.hex(),
        raw_bytes=record.raw_bytes,
        stored_bytes=record.stored_bytes,
        stage=stage,
        where=_where(stage, traced.deliveries),
        core_sent_at=_core_sent_at(traced.deliveries),
        detail_sent_at=_detail_sent_at(traced.deliveries),
        deliveries=tuple(_delivery(delivery) for delivery in traced.deliveries),
    )


def stage_of(traced: TracedRecord) -> Stage:
    """The state of a record, from its deliveries."""
    states = {delivery.state for delivery in traced.deliveries}
    if traced.superseded:
        return Stage.SUPERSEDED
    if DeliveryState.DEAD in states:
        return Stage.DEAD
    if DeliveryState.HELD in states:
        return Stage.HELD
    if any(state.queued for state in states):
        return Stage.QUEUED if _core_sent_at(traced.deliveries) is None else Stage.CORE_SENT
    if states - {DeliveryState.DELIVERED}:
        return Stage.GIVEN_UP
    return Stage.DELIVERED


def _is_whole(traced: TracedRecord) -> bool:
    """Whether it is stored in one piece; a receipt has no fragments left, so its deliveries decide."""
    if traced.record.fragments:
        return Fragment.REST not in traced.record.fragments
    return all(delivery.form is Form.WHOLE for delivery in traced.deliveries)


def _core_sent_at(deliveries: tuple[TracedDelivery, ...]) -> str | None:
    return _sent_at([each for each in deliveries if each.form is Form.CORE or _is_only_whole(each, deliveries)])


def _detail_sent_at(deliveries: tuple[TracedDelivery, ...]) -> str | None:
    """A whole counts if it was sent after the core because the detail was too large."""
    return _sent_at(
        [each for each in deliveries if each.form in FORMS_WITH_DETAIL and not _is_only_whole(each, deliveries)]
    )


def _is_only_whole(one: TracedDelivery, deliveries: tuple[TracedDelivery, ...]) -> bool:
    cores = {each.destination for each in deliveries if each.form is Form.CORE}
    return one.form is Form.WHOLE and one.destination not in cores


def _sent_at(wanted: Sequence[TracedDelivery]) -> str | None:
    times = [
        each.settled_at for each in wanted if each.state is DeliveryState.DELIVERED and each.settled_at is not None
    ]
    return instant(max(times)) if times and len(times) == len(wanted) else None


def _delivery(delivery: TracedDelivery) -> DeliveryTrace:
    return DeliveryTrace(
        destination=delivery.destination,
        form=delivery.form.value,
        lane=delivery.lane.value,
        state=delivery.state.name.lower(),
        attempts=delivery.attempts,
        next_attempt_at=instant(delivery.due_at) if delivery.state is DeliveryState.READY else None,
        settled_at=None if delivery.settled_at is None else instant(delivery.settled_at),
        error=delivery.error,
        location=delivery.location,
        history=attempts_of(delivery),
    )


def attempts_of(delivery: TracedDelivery) -> tuple[AttemptTrace, ...]:
    """The attempts of a delivery that are kept, shaped for people and for JSON."""
    return tuple(map(attempt_of, delivery.history))


_STATUS = re.compile(r"\bHTTP (\d{3})\b(?::\s*)?")
_CODE = re.compile(r"^[A-Z]\w+: ([A-Z]\w+): ")
"""An operation of S3, and the code of its error: `PutObject: AccessDenied: `."""


def attempt_of(attempt: Attempt) -> AttemptTrace:
    """One attempt, shaped for people and for JSON."""
    answer = redact(attempt.answer)
    found = _STATUS.search(answer)
    code = _CODE.search(answer)
    status = found[1] if found else code[1] if code else "delivered" if attempt.outcome == "delivered" else "no answer"
    return AttemptTrace(
        number=attempt.number,
        ended_at=instant(attempt.ended_at),
        took_seconds=None if attempt.took is None else attempt.took / 1000,
        outcome=attempt.outcome,
        status=status,
        answer=answer[found.end() :] or answer if found and found.start() == 0 else answer,
    )


def _where(stage: Stage, deliveries: tuple[TracedDelivery, ...]) -> str:
    match stage:
        case Stage.SUPERSEDED:
            return "not sent: a later event of the call was accepted before it"
        case Stage.DEAD:
            return f"dead letter: {_told(deliveries, DeliveryState.DEAD)}"
        case Stage.HELD:
            return f"held: {_told(deliveries, DeliveryState.HELD)}"
        case Stage.QUEUED | Stage.CORE_SENT:
            return f"in the spool: {_told(deliveries, DeliveryState.READY, DeliveryState.WAITING)} to be sent"
        case Stage.GIVEN_UP:
            return f"given up: {_told(deliveries, DeliveryState.EXPIRED, DeliveryState.DISCARDED)}"
        case Stage.DELIVERED:
            return "delivered" if deliveries else "accepted; owed to no destination"


def _told(deliveries: tuple[TracedDelivery, ...], *states: DeliveryState) -> str:
    """The deliveries in these states: `core to endpoint (why)`, joined by commas."""
    return ", ".join(
        f"{each.form} to {each.destination}{f' ({each.error})' if each.error else ''}"
        for each in deliveries
        if each.state in states
    )

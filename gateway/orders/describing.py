"""A delivery that has not ended, shaped for people and for JSON. Pure."""

from gateway.logs import redact_text
from gateway.orders.advice import advice_for
from gateway.orders.documents import DeliveryEntry
from gateway.trace import instant
from spool.errors import CorruptPayload
from spool.figures import OpenDelivery
from spool.records import Delivery, DeliveryState
from uploaders.forms import BadLocation, pieces_of, raw_bytes_of

_ADVICE = {
    DeliveryState.READY: "Nothing: it is sent as soon as it is due.",
    DeliveryState.WAITING: "Nothing: an earlier delivery, of this call or of this record, must end first.",
    DeliveryState.HELD: "Retoken it (`callspool deliveries retoken`), or replay the dead core it is held with.",
}


def advice_about(found: OpenDelivery) -> str:
    """What to do about a delivery as it stands."""
    state = found.delivery.state
    return advice_for(found.delivery.error) if state is DeliveryState.DEAD else _ADVICE[state]


def entry_of(found: OpenDelivery, now: int) -> DeliveryEntry:
    """What the list of deliveries shows of one, at `now` (ms)."""
    record, one = found.record, found.delivery
    delivery = delivery_of(found)
    return DeliveryEntry(
        key=f"{record.uid}/{one.form}/{one.destination}",
        record_id=record.uid,
        call_id=record.call_id,
        agent_id=record.agent_id,
        event=record.event,
        environment=record.environment,
        destination=one.destination,
        form=one.form.value,
        lane=one.lane.value,
        state=one.state.name.lower(),
        reason=None if one.error is None else redact_text(one.error),
        attempts=one.attempts,
        accepted_at=instant(record.accepted_at),
        since=instant(found.since),
        age_seconds=max(0, now - found.since) / 1000,
        next_attempt_at=instant(one.due_at) if one.state is DeliveryState.READY else None,
        bytes=document_bytes(delivery),
        idempotency_key=delivery.idempotency_key,
    )


def delivery_of(found: OpenDelivery) -> Delivery:
    """As an uploader would see it, but for the object that a notice tells of."""
    one = found.delivery
    return Delivery(found.record, one.destination, one.form, one.lane, one.attempts, one.due_at, None)


def document_bytes(delivery: Delivery) -> int:
    """How long its JSON document is; 0 for a notice that has no object to tell of yet, or whose parts are missing."""
    try:
        return raw_bytes_of(delivery.record, pieces_of(delivery))
    except (BadLocation, CorruptPayload):
        return 0

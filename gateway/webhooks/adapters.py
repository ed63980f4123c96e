"""What providers push, as events of calls: one pure adapter for each provider.

An adapter reads what it understands and leaves out what it does not: a verified body is never refused for its content.

Sources of the forms: elevenlabs-docs `post-call-webhook.mdx`, VapiAI/docs `server-url/events.mdx` and its OpenAPI
document, retell-sdk, livekit/protocol `livekit_webhook.proto`, Telnyx and Bland's API references, Twilio's status
callback.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

STARTED: Final = "call_started"
ENDED: Final = "call_ended"
ANALYZED: Final = "call_analyzed"
RECORDING_READY: Final = "recording_ready"
OTHER: Final = "webhook"
"""The event of what is kept without being understood."""

_LATEST_SECOND: Final = 253402300799
"""The last second of the year 9999: `datetime` knows none after it."""


class Treatment(Enum):
    """What becomes of an event."""

    KEPT = auto()
    """It becomes a record."""
    IGNORED = auto()
    """It says nothing that a call log holds, and comes many times a second; it is acknowledged and counted."""
    QUESTION = auto()
    """The provider waits for an answer that only the user's own server can give."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a provider says about a call."""

    type: str
    """The provider's own word for it."""
    call_id: str | None = None
    event: str = OTHER
    """`wcall_event` of the call log."""
    key: str | None = None
    """What is equal in every attempt of the provider to send this, although the body may differ."""
    members: Mapping[str, object] = field(default_factory=dict)
    """Top-level members of the call log, besides `call_id` and `wcall_event`."""
    treatment: Treatment = Treatment.KEPT
    dropped: int = 0
    """How many earlier events the provider says that it gave up."""
    audio_at: tuple[str, ...] = ()
    """Where base64 audio stands in the body, if this is a recording."""


Adapt = Callable[[object], Event]
"""From the decoded JSON of a body. A value of an unexpected type is left out."""


# Reading of what may be anything.


def at(value: object, *path: str) -> object:
    """What lies there; None where there is nothing."""
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def text(value: object, *path: str) -> str | None:
    """A text there, or a number as text: SIP failures carry phone numbers as numbers."""
    found = at(value, *path)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return None
    return str(found).strip() or None


def number(value: object, *path: str) -> float | None:
    """A number there, or one that is written as text."""
    found = at(value, *path)
    if isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            return None
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:
        return None


def moment(seconds: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC, as call logs have it."""
    if seconds is None or not 0 < seconds <= _LATEST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(value: object, *path: str) -> str | None:
    """Milliseconds since 1970, there, as ISO 8601."""
    found = number(value, *path)
    return None if found is None else moment(found / 1000)


def turns(items: object, role: str, words: str, agent: Iterable[str], caller: Iterable[str]) -> list[dict[str, str]]:
    """A transcript as call logs have it; what neither of the two said is left out."""
    roles = {**dict.fromkeys(agent, "assistant"), **dict.fromkeys(caller, "user")}
    found = []
    for item in items if isinstance(items, list) else ():
        speaker, said = text(item, role), text(item, words)
        if said is not None and (speaker or "").lower() in roles:
            found.append({"role": roles[(speaker or "").lower()], "content": said})
    return found


def members(**given: object) -> dict[str, object]:
    """Those members that say something."""
    return {name: value for name, value in given.items() if value is not None and value not in ([], {})}


# ElevenLabs.

_ELEVENLABS_EVENTS = {
    "call_initiation_failure": ENDED,
    "post_call_audio": RECORDING_READY,
    "post_call_transcription": ENDED,
}


def elevenlabs(body: object) -> Event:
    """`{"type", "event_timestamp", "data"}`."""
    kind, data = text(body, "type") or "unknown", at(body, "data")
    metadata = at(data, "metadata")
    call_id = text(data, "conversation_id")
    started = number(metadata, "start_time_unix_secs")
    lasted = number(metadata, "call_duration_secs")
    reason = text(metadata, "termination_reason") or text(data, "failure_reason")
    return Event(
        type=kind,
        call_id=call_id,
        event=_ELEVENLABS_EVENTS.get(kind, OTHER),
        key=_key(kind, call_id, text(body, "event_timestamp")),
        members=members(
            agent_id=text(data, "agent_id"),
            customer_number=text(metadata, "phone_call", "external_number") or text(metadata, "body", "from_number"),
            call_started_at=moment(started),
            call_ended_at=moment(None if started is None or lasted is None else started + lasted),
            call_ended_reason=reason if _ELEVENLABS_EVENTS.get(kind) == ENDED else None,
            billing_duration_seconds=lasted,
            transcript_json=turns(at(data, "transcript"), "role", "message", ("agent",), ("user",)),
            provider_summary=text(data, "analysis", "transcript_summary"),
            provider_cost=members(amount=number(metadata, "cost"), unit="credits") if at(metadata, "cost") else None,
        ),
        audio_at=("data", "full_audio") if kind == "post_call_audio" else (),
    )


# Retell.

_RETELL_EVENTS = {"call_started": STARTED, "call_ended": ENDED, "call_analyzed": ANALYZED}


def retell(body: object) -> Event:
    """`{"event", "call"}`. A call that does not connect has no `call_started`."""
    kind, call = text(body, "event") or "unknown", at(body, "call")
    call_id = text(call, "call_id")
    inbound = text(call, "direction") != "outbound"
    cost = number(call, "call_cost", "combined_cost")
    digest = _digest(body) if kind == "transcript_updated" else None
    return Event(
        type=kind,
        call_id=call_id,
        event=_RETELL_EVENTS.get(kind, OTHER),
        key=_key(kind, call_id, digest),
        members=members(
            agent_id=text(call, "agent_id"),
            customer_number=text(call, "from_number" if inbound else "to_number"),
            call_started_at=milliseconds(call, "start_timestamp"),
            call_ended_at=milliseconds(call, "end_timestamp") if kind != "call_started" else None,
            call_ended_reason=text(call, "disconnection_reason") if kind != "call_started" else None,
            billing_duration_seconds=number(call, "call_cost", "total_duration_seconds"),
            recording_url=text(call, "recording_url"),
            transcript_json=turns(at(call, "transcript_object"), "role", "content", ("agent",), ("user",)),
            provider_summary=text(call, "call_analysis", "call_summary"),
            provider_cost=None if cost is None else {"amount": cost, "unit": "US cents"},
            opt_out_sensitive_data_storage=at(call, "opt_out_sensitive_data_storage"),
        ),
        treatment=Treatment.IGNORED if kind == "transcript_updated" else Treatment.KEPT,
    )


# Vapi.

_VAPI_QUESTIONS = frozenset(
    {
        "assistant-request",
        "call.endpointing.request",
        "campaign-predial",
        "function-call",
        "handoff-destination-request",
        "knowledge-base-request",
        "tool-calls",
        "transfer-destination-request",
        "voice-request",
    }
)
_VAPI_KEPT = frozenset({"end-of-call-report", "status-update"})


def vapi(body: object) -> Event:
    """`{"message": {"type", "call", ...}}`. Addresses in it are signed anew for each attempt, so that bodies differ."""
    message = at(body, "message")
    kind, call = text(message, "type") or "unknown", at(message, "call")
    call_id = text(call, "id")
    status = text(message, "status")
    began = (kind, status) == ("status-update", "in-progress")
    event = ENDED if kind == "end-of-call-report" else STARTED if began else OTHER
    artifact = at(message, "artifact")
    cost = number(message, "cost")
    said = at(artifact, "messages") or at(message, "messages")
    treatment = Treatment.KEPT if kind in _VAPI_KEPT else Treatment.IGNORED
    return Event(
        type=kind,
        call_id=call_id,
        event=event,
        key=_key(kind, call_id, status or (_digest(body) if kind not in _VAPI_KEPT else None)),
        members=members(
            agent_id=text(call, "assistantId") or text(message, "assistant", "id"),
            customer_number=text(message, "customer", "number") or text(call, "customer", "number"),
            call_started_at=text(message, "startedAt") or (text(call, "startedAt") if event == STARTED else None),
            call_ended_at=text(message, "endedAt") if event == ENDED else None,
            call_ended_reason=text(message, "endedReason") if event == ENDED else None,
            billing_duration_seconds=number(message, "durationSeconds"),
            recording_url=text(artifact, "recordingUrl") or text(message, "recordingUrl"),
            transcript_json=turns(said, "role", "message", ("bot", "assistant"), ("user",)),
            provider_summary=text(message, "analysis", "summary") or text(message, "summary"),
            provider_cost=None if cost is None else {"amount": cost, "unit": "USD"},
        ),
        treatment=Treatment.QUESTION if kind in _VAPI_QUESTIONS else treatment,
    )


# LiveKit: rooms and recordings. Transcripts do not come by its webhooks.

_LIVEKIT_EVENTS = {"room_started": STARTED, "room_finished": ENDED, "egress_ended": RECORDING_READY}


def livekit(body: object) -> Event:
    """`{"event", "id", "createdAt", "room", ...}`: protobuf as JSON, in which 64-bit numbers are texts."""
    kind = text(body, "event") or "unknown"
    room = at(body, "room") or {}
    egress = at(body, "egressInfo")
    created = moment(number(body, "createdAt"))
    files = at(egress, "fileResults")
    event = _LIVEKIT_EVENTS.get(kind, OTHER)
    return Event(
        type=kind,
        call_id=text(room, "sid") or text(egress, "roomId"),
        event=event,
        key=_key(kind, text(body, "id"), None),
        members=members(
            room_name=text(room, "name") or text(egress, "roomName"),
            call_started_at=moment(number(room, "creationTime")) or (created if event == STARTED else None),
            call_ended_at=created if event == ENDED else None,
            call_ended_reason="room_finished" if event == ENDED else None,
            recording_url=text(files[0], "location") if isinstance(files, list) and files else None,
        ),
        treatment=Treatment.KEPT if kind in _LIVEKIT_EVENTS else Treatment.IGNORED,
        dropped=max(0, int(number(body, "numDropped") or 0)),
    )


# Telnyx: call control.

_TELNYX_EVENTS = {"call.initiated": STARTED, "call.hangup": ENDED, "call.recording.saved": RECORDING_READY}


def telnyx(body: object) -> Event:
    """`{"data": {"event_type", "id", "payload"}}`; events come out of order and several times."""
    data = at(body, "data")
    kind, payload = text(data, "event_type") or "unknown", at(data, "payload")
    event = _TELNYX_EVENTS.get(kind, OTHER)
    inbound = text(payload, "direction") != "outgoing"
    occurred = text(data, "occurred_at")
    urls = at(payload, "recording_urls") or at(payload, "public_recording_urls")
    return Event(
        type=kind,
        call_id=text(payload, "call_session_id") or text(payload, "call_control_id"),
        event=event,
        key=_key(text(data, "id"), None, None),
        members=members(
            agent_id=text(payload, "connection_id"),
            customer_number=text(payload, "from" if inbound else "to"),
            call_started_at=text(payload, "start_time") or (occurred if event == STARTED else None),
            call_ended_at=text(payload, "end_time") or (occurred if event == ENDED else None),
            call_ended_reason=text(payload, "hangup_cause"),
            recording_url=text(urls, "mp3") or text(urls, "wav"),
        ),
    )


# Twilio: status callbacks of calls and recordings, as form fields.

_TWILIO_ENDED = frozenset({"busy", "canceled", "completed", "failed", "no-answer"})


def twilio(body: object) -> Event:
    """`CallSid`, `CallStatus`, ...: all values are texts."""
    call_id, status = text(body, "CallSid"), text(body, "CallStatus")
    recording = text(body, "RecordingUrl")
    inbound = (text(body, "Direction") or "inbound") == "inbound"
    ended = status in _TWILIO_ENDED
    event = ENDED if ended else STARTED if status in {"in-progress", "ringing"} else OTHER
    return Event(
        type="recording" if recording else status or "unknown",
        call_id=call_id,
        event=RECORDING_READY if recording and not ended else event,
        key=_key(call_id, text(body, "RecordingStatus") or status, text(body, "RecordingSid")),
        members=members(
            agent_id=text(body, "ApplicationSid") or text(body, "To" if inbound else "From"),
            customer_number=text(body, "From" if inbound else "To"),
            call_ended_reason=status if ended else None,
            billing_duration_seconds=number(body, "CallDuration") if ended else None,
            recording_url=recording,
        ),
    )


# Bland: the call as its API gives it.


def bland(body: object) -> Event:
    """The call's own members at the top."""
    call_id = text(body, "call_id") or text(body, "c_id")
    minutes = number(body, "call_length")
    inbound = at(body, "inbound") is True
    price = number(body, "price")
    return Event(
        type=text(body, "status") or "completed",
        call_id=call_id,
        event=ENDED,
        key=_key(call_id, text(body, "status"), text(body, "end_at")),
        members=members(
            agent_id=text(body, "pathway_id") or text(body, "persona_id"),
            customer_number=text(body, "from" if inbound else "to"),
            call_started_at=text(body, "started_at") or text(body, "created_at"),
            call_ended_at=text(body, "end_at"),
            call_ended_reason=text(body, "error_message") or text(body, "call_ended_by") or text(body, "status"),
            billing_duration_seconds=None if minutes is None else round(minutes * 60, 3),
            recording_url=text(body, "recording_url"),
            transcript_json=turns(at(body, "transcripts"), "user", "text", ("assistant",), ("user",)),
            provider_summary=text(body, "summary"),
            provider_cost=None if price is None else {"amount": price, "unit": "USD"},
        ),
    )


# Any other sender: where its members lie is configured as JSON pointers (RFC 6901).


_NO_MEMBERS: Final = frozenset({"call_id", "duplicate_key", "event", "type"})
"""What is found for the event itself."""


def pointed(pointers: Mapping[str, str], event_names: Mapping[str, str]) -> Adapt:
    """An adapter that finds each member at its pointer; `event_names` translates the sender's types to events."""

    def adapt(body: object) -> Event:
        found = {name: resolve(body, pointer) for name, pointer in pointers.items()}
        kind = text(found, "type") or text(found, "event") or "unknown"
        kept = {name: value for name, value in found.items() if name not in _NO_MEMBERS}
        return Event(
            type=kind,
            call_id=text(found, "call_id"),
            event=event_names.get(kind) or text(found, "event") or (ENDED if not event_names else OTHER),
            key=_key(text(found, "duplicate_key"), None, None),
            members=members(**kept),
        )

    return adapt


def resolve(value: object, pointer: str) -> object:
    """What a JSON pointer finds; None where there is nothing."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _key(*parts: str | None) -> str | None:
    """What is the same for every attempt; None where the provider gave nothing that could be."""
    given = [part for part in parts if part]
    return ":".join(given) or None if parts[0] else None


def _digest(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]

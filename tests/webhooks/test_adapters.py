"""What becomes of each provider's events: call logs, with the original unchanged."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.webhooks.adapters import Event, Treatment, moment, pointed, resolve
from gateway.webhooks.document import call_log_of, decode
from gateway.webhooks.providers import PROVIDERS, Provider
from tests.webhooks.senders import body_of

SAMPLES = [(provider, kind) for provider in PROVIDERS.values() for kind in provider.samples]
NAMES = [f"{provider.name} {kind}" for provider, kind in SAMPLES]
TRANSCRIPT = [
    {"role": "assistant", "content": "Hello, this is the dental office."},
    {"role": "user", "content": "I would like to move my appointment."},
]
EXPECTED: dict[str, dict[str, Any]] = {
    "elevenlabs post_call_transcription": {
        "call_id": "conv_01",
        "wcall_event": "call_ended",
        "agent_id": "agent_01",
        "customer_number": "+15550100",
        "call_started_at": "2025-02-14T12:46:40.000Z",
        "call_ended_at": "2025-02-14T12:47:02.000Z",
        "call_ended_reason": "client disconnected",
        "billing_duration_seconds": 22.0,
        "transcript_json": TRANSCRIPT,
        "provider_summary": "The caller moves an appointment.",
        "provider_cost": {"amount": 296.0, "unit": "credits"},
    },
    "elevenlabs post_call_audio": {"call_id": "conv_01", "wcall_event": "recording_ready", "agent_id": "agent_01"},
    "elevenlabs call_initiation_failure": {
        "call_id": "conv_02",
        "wcall_event": "call_ended",
        "call_ended_reason": "busy",
    },
    "retell call_started": {
        "call_id": "call_01",
        "wcall_event": "call_started",
        "call_started_at": "2025-02-14T12:46:40.000Z",
        "customer_number": "+15550100",
    },
    "retell call_ended": {
        "call_id": "call_01",
        "wcall_event": "call_ended",
        "call_ended_at": "2025-02-14T12:47:02.000Z",
        "call_ended_reason": "user_hangup",
        "transcript_json": TRANSCRIPT,
    },
    "retell call_analyzed": {
        "call_id": "call_01",
        "wcall_event": "call_analyzed",
        "provider_summary": "The caller moves an appointment.",
    },
    "vapi status-update": {
        "call_id": "call-01",
        "wcall_event": "call_started",
        "agent_id": "assistant-01",
        "call_started_at": "2025-02-14T12:46:40.000Z",
    },
    "vapi end-of-call-report": {
        "call_id": "call-01",
        "wcall_event": "call_ended",
        "call_ended_reason": "customer-ended-call",
        "transcript_json": TRANSCRIPT,
        "recording_url": "https://storage.example/call-01.wav",
        "provider_cost": {"amount": 0.034, "unit": "USD"},
    },
    "livekit room_started": {"call_id": "RM_01", "wcall_event": "call_started", "room_name": "call-01"},
    "livekit room_finished": {
        "call_id": "RM_01",
        "wcall_event": "call_ended",
        "call_ended_at": "2025-02-14T12:47:02.000Z",
    },
    "livekit egress_ended": {
        "call_id": "RM_01",
        "wcall_event": "recording_ready",
        "recording_url": "s3://recordings/call-01.mp4",
    },
    "telnyx call.hangup": {
        "call_id": "session-01",
        "wcall_event": "call_ended",
        "customer_number": "+15550100",
        "call_ended_reason": "normal_clearing",
    },
    "twilio completed": {
        "call_id": "CA01",
        "wcall_event": "call_ended",
        "customer_number": "+15550100",
        "billing_duration_seconds": 22.0,
    },
    "bland completed": {
        "call_id": "bland-01",
        "wcall_event": "call_ended",
        "customer_number": "+15550100",
        "billing_duration_seconds": 22.2,
        "transcript_json": TRANSCRIPT,
        "provider_summary": "The caller moves an appointment.",
    },
}


def made_of(provider: Provider, body: bytes) -> tuple[Event, dict[str, Any]]:
    """The event of a body, and the call log."""
    value, is_json = decode(body, is_form=provider.is_form)
    event = provider.adapt(value)
    pieces = call_log_of("here", provider.name, event, body, is_json=is_json)
    return event, json.loads(b"".join(map(bytes, pieces)))


@pytest.mark.parametrize(("provider", "kind"), SAMPLES, ids=NAMES)
def test_a_sample_becomes_a_call_log(provider: Provider, kind: str) -> None:
    """Transcript, times, numbers, cost, summary and recording stand where call logs have them."""
    body = body_of(provider, provider.samples[kind])
    event, call_log = made_of(provider, body)
    expected = EXPECTED.get(f"{provider.name} {kind}", {})
    assert {name: call_log[name] for name in expected} == expected
    assert event.type == kind
    assert event.treatment is (Treatment.KEPT if expected else Treatment.QUESTION)
    assert event.key, "without its key, an attempt that is made again would be kept twice"
    assert call_log["source"] == {"name": "here", "provider": provider.name, "type": kind}


def test_every_sample_is_expected_or_a_question() -> None:
    """No sample is left out of the table above."""
    assert set(NAMES) - set(EXPECTED) == {"vapi tool-calls"}


@pytest.mark.parametrize(("provider", "kind"), SAMPLES, ids=NAMES)
def test_the_key_is_the_same_when_addresses_are_signed_anew(provider: Provider, kind: str) -> None:
    """Bodies differ from attempt to attempt: Vapi signs the addresses in them each time."""
    if Treatment.QUESTION is provider.adapt(provider.samples[kind]).treatment:
        return
    text = json.dumps(provider.samples[kind])
    again = json.loads(text.replace("call-01.wav", "call-01.wav?signature=another"))
    assert provider.adapt(again).key == provider.adapt(provider.samples[kind]).key


def test_different_events_of_a_call_have_different_keys() -> None:
    """Otherwise the second would be taken for the first."""
    for provider in PROVIDERS.values():
        keys = [provider.adapt(sample).key for sample in provider.samples.values()]
        assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "body",
    [
        b'{"event":"call_ended","call":{"call_id":"x","cost":1e400,"n":1234567890123456789012345,"n":1.10}}',
        b'{"event":"call_ended","call":{"call_id":"x","text":"\\u0000 \\ud800"}}',
        b'{ "event" : "call_ended" , "call" : { "call_id" : "x" , "f" : 1.0 } }',
    ],
)
def test_the_original_is_in_it_byte_for_byte(body: bytes) -> None:
    """Numbers are not written anew, duplicate keys and lone surrogates stay."""
    retell = PROVIDERS["retell"]
    value, is_json = decode(body, is_form=False)
    pieces = call_log_of("r", "retell", retell.adapt(value), body, is_json=is_json)
    assert is_json
    assert b"".join(map(bytes, pieces)).endswith(b'"original":' + body + b"}")


@pytest.mark.parametrize(
    ("body", "member"), [(b"not json", "original_text"), (b'{"a":', "original_text"), (b"\xff\xfe", "original_base64")]
)
def test_what_is_no_json_is_kept_as_text(body: bytes, member: str) -> None:
    """A body that is genuine is never refused for its content."""
    event, call_log = made_of(PROVIDERS["elevenlabs"], body)
    assert call_log["call_id"].startswith("unknown-")
    assert call_log["wcall_event"] == "webhook"
    assert member in call_log
    assert event.type == "unknown"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _replaced(sample: object, values: list[object], path: str = "") -> object:
    """The sample with some of its values replaced by anything."""
    if isinstance(sample, dict):
        return {key: _replaced(value, values, f"{path}/{key}") for key, value in sample.items()}
    return values.pop() if values and hash(path) % 3 == 0 else sample


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(JSON, min_size=1, max_size=12), anything=JSON)
def test_values_of_any_type_are_left_out(provider: Provider, values: list[object], anything: object) -> None:
    """An adapter raises for no value of an unexpected type, and what it makes is JSON."""
    for sample in (anything, *(_replaced(each, list(values)) for each in provider.samples.values())):
        event = provider.adapt(sample)
        body = json.dumps(sample).encode()
        json.loads(b"".join(map(bytes, call_log_of("s", provider.name, event, body, is_json=True))))


def test_large_values_are_not_built() -> None:
    """Of a body above 1 MiB only what is small is read, and the transcript if it is of a usual size."""
    transcript = [{"role": "agent", "message": "word " * 20} for _ in range(1000)]
    body = json.dumps(
        {
            "type": "post_call_transcription",
            "event_timestamp": 1,
            "data": {"conversation_id": "c", "transcript": transcript, "noise": "x" * 2_000_000},
        }
    ).encode()
    value, is_json = decode(body, is_form=False)
    assert is_json
    event = PROVIDERS["elevenlabs"].adapt(value)
    assert event.call_id == "c"
    shown = event.members["transcript_json"]
    assert isinstance(shown, list)
    assert len(shown) == 1000
    assert resolve(value, "/data/noise") is None


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [("/a/b", 1), ("/list/1", "y"), ("/a~1b", 2), ("/m~0n", 3), ("/list/9", None), ("/a/b/c", None), ("/x", None)],
)
def test_pointers_find_what_rfc_6901_says(pointer: str, expected: object) -> None:
    """Names with slashes and tildes, places in lists, and nothing."""
    assert resolve({"a": {"b": 1}, "list": ["x", "y"], "a/b": 2, "m~n": 3}, pointer) == expected


def test_any_sender_is_mapped_by_pointers() -> None:
    """What is configured for `hmac` and `header` decides where the members lie."""
    adapt = pointed({"call_id": "/id", "type": "/kind", "agent_id": "/bot"}, {"done": "call_ended"})
    event = adapt({"id": 7, "kind": "done", "bot": "b"})
    assert (event.call_id, event.event, event.type, event.members) == ("7", "call_ended", "done", {"agent_id": "b"})
    assert adapt({"id": "7", "kind": "other"}).event == "webhook"


@pytest.mark.parametrize("seconds", [None, -1.0, 0.0, 1e20, float("inf")])
def test_times_that_are_none_are_left_out(seconds: float | None) -> None:
    """A time outside of the calendar makes no call log unreadable."""
    assert moment(seconds) is None

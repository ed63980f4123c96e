"""The providers: how each signs, what it sends, and a sample of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.webhooks.adapters import Adapt, bland, elevenlabs, livekit, retell, telnyx, twilio, vapi
from gateway.webhooks.signatures import (
    HmacScheme,
    LivekitScheme,
    Scheme,
    SecretHeaderScheme,
    TelnyxScheme,
    TwilioScheme,
)


@dataclass(frozen=True, slots=True)
class Provider:
    """How one provider signs, and what it sends."""

    name: str
    scheme: Scheme
    adapt: Adapt
    secret: str
    """What the secret is called at the provider, for messages."""
    sample: str
    """The type of the event that `callspool webhooks test` sends."""
    samples: Mapping[str, object]
    """By type, a body as the provider documents it."""
    is_form: bool = False
    """Whether bodies are form fields, not JSON."""
    tolerance: float = 300.0
    """Seconds by which a signature's time may be off, unless the source says otherwise."""


# The table of providers. `hmac` and `header` are made from the settings of their source.

_ELEVENLABS_SAMPLE = {
    "type": "post_call_transcription",
    "event_timestamp": 1739537297,
    "data": {
        "agent_id": "agent_01",
        "conversation_id": "conv_01",
        "status": "done",
        "transcript": [
            {"role": "agent", "message": "Hello, this is the dental office.", "time_in_call_secs": 0},
            {"role": "user", "message": "I would like to move my appointment.", "time_in_call_secs": 3},
        ],
        "metadata": {
            "start_time_unix_secs": 1739537200,
            "call_duration_secs": 22,
            "cost": 296,
            "termination_reason": "client disconnected",
            "phone_call": {"direction": "inbound", "external_number": "+15550100", "agent_number": "+15550101"},
        },
        "analysis": {"call_successful": "success", "transcript_summary": "The caller moves an appointment."},
    },
}
_RETELL_CALL = {
    "call_id": "call_01",
    "agent_id": "agent_01",
    "call_type": "phone_call",
    "direction": "inbound",
    "from_number": "+15550100",
    "to_number": "+15550101",
    "call_status": "ended",
    "start_timestamp": 1739537200000,
    "end_timestamp": 1739537222000,
    "disconnection_reason": "user_hangup",
    "transcript_object": [
        {"role": "agent", "content": "Hello, this is the dental office."},
        {"role": "user", "content": "I would like to move my appointment."},
    ],
}
_VAPI_CALL = {"id": "call-01", "assistantId": "assistant-01", "customer": {"number": "+15550100"}}
_LIVEKIT_ROOM = {"sid": "RM_01", "name": "call-01", "creationTime": "1739537200"}

PROVIDERS: Final[Mapping[str, Provider]] = {
    provider.name: provider
    for provider in (
        Provider(
            "elevenlabs",
            HmacScheme("ElevenLabs-Signature", "{timestamp}.{body}", fields=("t", "v0")),
            elevenlabs,
            "the webhook's secret (wsec_...)",
            "post_call_transcription",
            {
                "post_call_transcription": _ELEVENLABS_SAMPLE,
                "post_call_audio": {
                    "type": "post_call_audio",
                    "event_timestamp": 1739537319,
                    "data": {"agent_id": "agent_01", "conversation_id": "conv_01", "full_audio": "SUQzBAAAAAAAAA=="},
                },
                "call_initiation_failure": {
                    "type": "call_initiation_failure",
                    "event_timestamp": 1739537297,
                    "data": {"agent_id": "agent_01", "conversation_id": "conv_02", "failure_reason": "busy"},
                },
            },
            # Its SDK's: an attempt that is made again comes half an hour after the first.
            tolerance=1800.0,
        ),
        Provider(
            "retell",
            HmacScheme("X-Retell-Signature", "{body}{timestamp}", fields=("v", "d"), timestamp_unit=1000),
            retell,
            "the API key that has the webhook badge",
            "call_ended",
            {
                "call_started": {
                    "event": "call_started",
                    "call": {**_RETELL_CALL, "call_status": "ongoing", "transcript_object": []},
                },
                "call_ended": {"event": "call_ended", "call": _RETELL_CALL},
                "call_analyzed": {
                    "event": "call_analyzed",
                    "call": {
                        **_RETELL_CALL,
                        "call_analysis": {"call_summary": "The caller moves an appointment.", "call_successful": True},
                    },
                },
            },
        ),
        Provider(
            "vapi",
            SecretHeaderScheme("X-Vapi-Secret"),
            vapi,
            "the server's secret",
            "end-of-call-report",
            {
                "status-update": {
                    "message": {
                        "type": "status-update",
                        "status": "in-progress",
                        "call": {**_VAPI_CALL, "startedAt": "2025-02-14T12:46:40.000Z"},
                    }
                },
                "end-of-call-report": {
                    "message": {
                        "type": "end-of-call-report",
                        "call": _VAPI_CALL,
                        "startedAt": "2025-02-14T12:46:40.000Z",
                        "endedAt": "2025-02-14T12:47:02.000Z",
                        "endedReason": "customer-ended-call",
                        "cost": 0.034,
                        "durationSeconds": 22,
                        "artifact": {
                            "recordingUrl": "https://storage.example/call-01.wav",
                            "messages": [
                                {"role": "system", "message": "You answer for a dental office."},
                                {"role": "bot", "message": "Hello, this is the dental office."},
                                {"role": "user", "message": "I would like to move my appointment."},
                            ],
                        },
                        "analysis": {"summary": "The caller moves an appointment."},
                    }
                },
                "tool-calls": {
                    "message": {
                        "type": "tool-calls",
                        "call": _VAPI_CALL,
                        "toolCallList": [{"id": "tool-01", "name": "find_slot", "arguments": {}}],
                    }
                },
            },
        ),
        Provider(
            "livekit",
            LivekitScheme(),
            livekit,
            "the project's API secret",
            "room_finished",
            {
                "room_started": {
                    "event": "room_started",
                    "id": "EV_01",
                    "createdAt": "1739537200",
                    "room": _LIVEKIT_ROOM,
                },
                "room_finished": {
                    "event": "room_finished",
                    "id": "EV_02",
                    "createdAt": "1739537222",
                    "room": _LIVEKIT_ROOM,
                    "numDropped": 2,
                },
                "egress_ended": {
                    "event": "egress_ended",
                    "id": "EV_03",
                    "createdAt": "1739537230",
                    "egressInfo": {
                        "egressId": "EG_01",
                        "roomId": "RM_01",
                        "roomName": "call-01",
                        "fileResults": [{"location": "s3://recordings/call-01.mp4"}],
                    },
                },
            },
        ),
        Provider(
            "telnyx",
            TelnyxScheme(),
            telnyx,
            "the account's public key (base64)",
            "call.hangup",
            {
                "call.hangup": {
                    "data": {
                        "record_type": "event",
                        "event_type": "call.hangup",
                        "id": "0ccc7b54-4df3-4bca-a65a-3da1ecc777f0",
                        "occurred_at": "2025-02-14T12:47:02.000000Z",
                        "payload": {
                            "call_control_id": "v2:control",
                            "call_session_id": "session-01",
                            "connection_id": "1494404757140276705",
                            "direction": "incoming",
                            "from": "+15550100",
                            "to": "+15550101",
                            "start_time": "2025-02-14T12:46:40.000000Z",
                            "end_time": "2025-02-14T12:47:02.000000Z",
                            "hangup_cause": "normal_clearing",
                        },
                    }
                }
            },
        ),
        Provider(
            "twilio",
            TwilioScheme(),
            twilio,
            "the account's auth token",
            "completed",
            {
                "completed": {
                    "CallSid": "CA01",
                    "CallStatus": "completed",
                    "CallDuration": "22",
                    "Direction": "inbound",
                    "From": "+15550100",
                    "To": "+15550101",
                }
            },
            is_form=True,
        ),
        Provider(
            "bland",
            HmacScheme("X-Webhook-Signature"),
            bland,
            "the webhook signing secret",
            "completed",
            {
                "completed": {
                    "call_id": "bland-01",
                    "status": "completed",
                    "from": "+15550101",
                    "to": "+15550100",
                    "inbound": False,
                    "call_length": 0.37,
                    "started_at": "2025-02-14T12:46:40.000Z",
                    "end_at": "2025-02-14T12:47:02.000Z",
                    "transcripts": [
                        {"user": "assistant", "text": "Hello, this is the dental office."},
                        {"user": "user", "text": "I would like to move my appointment."},
                    ],
                    "summary": "The caller moves an appointment.",
                    "price": 0.033,
                }
            },
        ),
    )
}

"""Compares what was posted with what arrived: byte for byte, of a split call log member by member."""

import hashlib
from dataclasses import dataclass

import msgspec

from bench.endpoint import Endpoint
from tests.system.gateway_process import Reply

MADE_BY_THE_SPLIT = {"summary_metrics", "telemetry_summary", "transcript_json", "deferred_fields"}
"""What a core may have that was not posted."""

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True)
class Acknowledged:
    """A call log that was answered 2xx, in what is needed to know it again: nothing of it is kept but digests."""

    call_id: str
    event: str
    uid: str
    two_phase: bool
    digest: str
    """SHA-256 of the document."""
    members: dict[str, str]
    """SHA-256 of the value of each top-level member, as its bytes came."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The idempotency keys of what it owes to an endpoint, the core first."""
        forms = ("core", "detail") if self.two_phase else ("whole",)
        return tuple(f"{self.uid}-{form}" for form in forms)


def acknowledged(body: bytes, reply: Reply) -> Acknowledged:
    """Remember a call log that a gateway answered for."""
    assert reply.status in {200, 202}, reply
    members = _MEMBERS.decode(body)
    return Acknowledged(
        call_id=reply.json["call_id"],
        event=msgspec.json.decode(members["wcall_event"], type=str),
        uid=reply.json["record_id"],
        two_phase=reply.json["upload_method"] == "two_phase",
        digest=hashlib.sha256(body).hexdigest(),
        members=digests_of(body),
    )


def assert_arrived(endpoint: Endpoint, posted: Acknowledged) -> None:
    """All of it is at the endpoint, with the values that were posted, and nothing that nobody made."""
    documents = [endpoint.documents[key] for key in posted.keys]
    if not posted.two_phase:
        assert hashlib.sha256(documents[0]).hexdigest() == posted.digest
        return
    core, detail = (digests_of(document) for document in documents)
    assert detail.pop("update_type") == hashlib.sha256(b'"detailed_telemetry"').hexdigest()
    assert detail.pop("call_id") == core["call_id"]
    assert {name: digest for name, digest in core.items() if name in posted.members} | detail == posted.members
    assert core.keys() - posted.members.keys() <= MADE_BY_THE_SPLIT
    assert not core.keys() & detail.keys()


def digests_of(document: bytes) -> dict[str, str]:
    """SHA-256 of the value of each top-level member, as its bytes stand there."""
    return {name: hashlib.sha256(value).hexdigest() for name, value in _MEMBERS.decode(document).items()}

"""Asks an endpoint whether it takes call logs, and whether it knows Phase 2, with marked test records.

A pair goes out as a real one would: a core, then its detail. An endpoint that knows nothing of Phase 2 may take the
detail for a call log of its own and answer 200 as well; so, where the detail was taken, the detail of a call that
does not exist is sent too: who takes that one does not look for the call.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import zstandard

from gateway.trace import instant
from spool.records import Clock, Delivery, Form, Fragment, Lane, Record, StoredFragment
from uploaders.base import Delivered, Refused, RetryLater
from uploaders.http.uploader import HttpOptions, HttpUploader

_DETAIL_MEMBERS = b'"telemetry_data":{"session_traces":[]},"transcript_with_metrics":[],"callspool_probe":true'


class Verdict(StrEnum):
    """What is known of an endpoint after the probe."""

    KNOWS_PHASE_2 = "knows_phase_2"
    """It takes cores, and looks for the call of a detail."""
    DOUBTFUL = "doubtful"
    """It takes the detail of a call that does not exist: perhaps it stores details as call logs of their own."""
    REFUSES_PHASE_2 = "refuses_phase_2"
    """It takes cores and no details."""
    REFUSES_CORES = "refuses_cores"
    """It took nothing, or was not reached."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the endpoint did."""

    verdict: Verdict
    call_id: str
    """The call id of the test records, by which they can be found and deleted."""
    reason: str
    """What the endpoint answered, where that was the trouble; otherwise empty."""


async def probe(options: HttpOptions, *, agent_id: str, call_id: str, clock: Clock) -> ProbeResult:
    """Post the test records of `call_id` and judge the answers. Never raises for what the endpoint does."""
    core_members = _core_members(call_id, agent_id, clock())
    record = _record(call_id, agent_id, core_members)
    uploader = HttpUploader(options, _InMemory(core_members), clock)
    try:
        core = await uploader.deliver(_delivery(record, Form.CORE))
        if not isinstance(core, Delivered):
            return ProbeResult(Verdict.REFUSES_CORES, call_id, core.reason)
        detail = await uploader.deliver(_delivery(record, Form.DETAIL))
        if not isinstance(detail, Delivered):
            return _without_detail(detail, call_id)
        stray = _record(f"{call_id}-unknown", agent_id, core_members)
        accepted = isinstance(await uploader.deliver(_delivery(stray, Form.DETAIL)), Delivered)
        return ProbeResult(Verdict.DOUBTFUL if accepted else Verdict.KNOWS_PHASE_2, call_id, "")
    finally:
        await uploader.close()


def _without_detail(outcome: RetryLater | Refused, call_id: str) -> ProbeResult:
    """An endpoint that says it does not find the call looks for it, so it knows Phase 2: the core had not settled."""
    if isinstance(outcome, RetryLater) and outcome.give_up_after_seconds is not None:
        return ProbeResult(Verdict.KNOWS_PHASE_2, call_id, "")
    return ProbeResult(Verdict.REFUSES_PHASE_2, call_id, outcome.reason)


class _InMemory:
    """The payload of the test records: nothing of them is ever in a spool."""

    def __init__(self, core: bytes) -> None:
        self._raw: Mapping[Fragment, bytes] = {Fragment.BASE: core, Fragment.REST: _DETAIL_MEMBERS}

    async def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:  # noqa: ARG002  # the interface
        """The fragment as one frame."""
        yield zstandard.ZstdCompressor().compress(self._raw[fragment])

    async def token(self, token_id: int) -> str | None:  # noqa: ARG002  # the interface
        """None: the probe's token is among its options."""
        return None


def _record(call_id: str, agent_id: str, core: bytes) -> Record:
    return Record(
        record_id=0,
        uid=call_id,
        call_id=call_id,
        agent_id=agent_id,
        event="call_ended",
        environment=None,
        digest=b"",
        raw_bytes=len(core) + len(_DETAIL_MEMBERS),
        stored_bytes=0,
        accepted_at=0,
        token_id=None,
        first_chunk=0,
        fragments={
            Fragment.BASE: StoredFragment(1, len(core), len(core)),
            Fragment.REST: StoredFragment(1, len(_DETAIL_MEMBERS), len(_DETAIL_MEMBERS)),
        },
    )


def _core_members(call_id: str, agent_id: str, now: int) -> bytes:
    """The members of a short call that is marked as a test in every field that people look at."""
    document = {
        "call_id": call_id,
        "agent_id": agent_id,
        "wcall_event": "call_ended",
        "customer_number": "callspool-probe",
        "call_ended_reason": "completed",
        "call_started_at": instant(now),
        "call_ended_at": instant(now),
        "transcript_type": "agent",
        "transcript_json": [],
        "summary_metrics": {"total_turns": 0},
        "telemetry_summary": {"total_spans": 0},
        "metadata": {"callspool_probe": True},
    }
    return json.dumps(document).encode()[1:-1]


def _delivery(record: Record, form: Form) -> Delivery:
    lane = Lane.DETAIL if form is Form.DETAIL else Lane.CORE
    return Delivery(record, "probe", form, lane, attempts=0, due_at=0, first_failed_at=None)

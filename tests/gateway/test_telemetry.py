"""Spans without a collector: which parent decides what, what ends a delivery's span, and what is never in one."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.exporter.otlp.proto.http import trace_exporter

from gateway.runtime import telemetry
from gateway.runtime.telemetry import SpanSender
from gateway.telemetry import Context, Kind, Span, Spans, current_post, sampled, trace_context
from spool.records import Delivery, Form, Fragment, Lane, Record, StoredFragment

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RECORD = Record(
    record_id=7, uid="0a1b2c3d-7", call_id="the-call", agent_id="the-agent", event="call_ended", environment=None,
    digest=b"d" * 32, raw_bytes=10, stored_bytes=10, accepted_at=1_700_000_000_000, token_id=None, first_chunk=1,
    fragments={Fragment.BODY: StoredFragment(1, 10, 10)}, trace_context=f"{PARENT} congo=t61",
)  # fmt: skip
DELIVERY = Delivery(RECORD, "endpoint", Form.WHOLE, Lane.CORE, 2, 0, None)


def made(share: float = 1.0) -> tuple[Spans, list[Span]]:
    found: list[Span] = []
    return Spans(found.append, share), found


def test_an_attempt_is_sent_in_its_own_span_below_the_delivery() -> None:
    """What its destination gets names the attempt; a failure ends the attempt, a success the delivery as well."""
    spans, found = made()
    sent = spans.attempting(DELIVERY)
    assert sent.key == DELIVERY.key
    spans.attempted(DELIVERY, "retry")
    (attempt,) = found
    assert sent.record.trace_context == attempt.context.text
    assert attempt.context.text.endswith("-01 congo=t61")
    assert (attempt.kind, attempt.failed, attempt.attributes["callspool.attempt"]) == (Kind.CLIENT, True, 3)
    spans.attempting(DELIVERY)
    spans.attempted(DELIVERY, "delivered")
    _, again, delivery = found
    assert attempt.parent_id == again.parent_id == delivery.context.span_id
    assert delivery.parent_id == 0x00F067AA0BA902B7
    assert (delivery.name, delivery.started, delivery.failed) == ("deliver whole", RECORD.accepted_at * 10**6, False)
    assert attempt.context.span_id != again.context.span_id


def test_another_process_makes_the_same_delivery() -> None:
    """The id of a delivery's span follows from its key; another destination's, or form's, is another one."""
    ids = []
    others = [replace(DELIVERY, destination="other"), replace(DELIVERY, form=Form.CORE)]
    for delivery in (DELIVERY, DELIVERY, *others):
        spans, found = made()
        spans.attempting(delivery)
        spans.attempted(delivery, "dead")
        ids.append(found[1].context.span_id)
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_record_without_a_context_has_a_trace_of_its_own() -> None:
    """What came before there were spans, or by a way without requests: its deliveries share a trace, without a parent,
    and the share that is wanted decides."""
    plain = replace(DELIVERY, record=replace(RECORD, trace_context=None))
    spans, found = made()
    for form in (Form.CORE, Form.DETAIL):
        delivery = replace(plain, form=form)
        assert spans.attempting(delivery).record.trace_context is not None
        spans.attempted(delivery, "delivered")
    assert len({span.context.trace_id for span in found}) == 1
    assert [span.parent_id for span in found if span.name != "attempt"] == [None, None]
    spans, found = made(0.0)
    assert spans.attempting(plain) is plain
    spans.attempted(plain, "delivered")
    assert not found


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_parent_decides(share: float) -> None:
    """Whatever share is wanted of the traces that begin here."""
    spans, found = made(share)
    unsampled = f"{PARENT[:-2]}00"
    assert spans.post(unsampled) is None
    assert spans.job(unsampled) is None
    post = spans.post(PARENT)
    assert post is not None
    with post:
        assert current_post.get() is post
        post.stage("commit", 1, Context(1, 2), record_id="x")
    assert current_post.get() is None
    post.ended("calls", "POST", 202, "accepted")
    post.stage("late", 1)
    assert [span.name for span in found] == ["commit", "calls"]
    assert found[1].parent_id == found[1].parent_id == 0x00F067AA0BA902B7
    assert not found[1].failed
    assert (spans.post(None) is None) == (share == 0.0)


def test_about_the_wanted_share_of_traces_is_sampled() -> None:
    """A tenth of ten thousand, by the ids of their traces alone."""
    spans, _ = made(0.1)
    assert 800 < sum(spans.post(None) is not None for _ in range(10_000)) < 1_200


def test_a_batch_is_linked_to_what_is_sampled() -> None:
    """At most 128 links; of what came in no sampled span there is a batch only by its share."""
    spans, found = made(0.0)
    spans.batch("write batch", [f"{PARENT[:-2]}00"], 1, 3, failed=False)
    assert not found
    spans.batch("write batch", [PARENT] * 200, 1, 200, failed=True)
    (span,) = found
    assert (len(span.links), span.attributes["messaging.batch.message_count"], span.failed) == (128, 200, True)


def test_nothing_of_a_call_is_in_a_span() -> None:
    """Neither its id, which may be a number, nor its agent."""
    spans, found = made()
    spans.attempting(DELIVERY)
    spans.attempted(DELIVERY, "delivered")
    said: list[Any] = [value for span in found for value in (span.name, *span.attributes.values())]
    assert "the-call" not in said
    assert "the-agent" not in said


@pytest.mark.parametrize(("parent", "kept"), [(PARENT, f"{PARENT} a=1"), (f"{PARENT}-more", None), ("", None)])
def test_a_context_from_a_broker_is_checked(parent: str, kept: str | None) -> None:
    """As one from a request."""
    assert trace_context(parent, " a=1 ") == kept
    if kept is not None:
        assert sampled(kept) == (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, "a=1")


async def test_a_batch_that_an_exporter_raises_over_makes_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As older ones do while no collector answers: it has failed, and the queue is no fuller for it."""
    exported: Counter[str] = Counter()
    heard = asyncio.Event()

    class Heard:
        def spans_exported(self, result: str, count: int) -> None:
            exported[result] += count
            if exported["failed"] == 2:
                heard.set()

    def refuse(*_: object) -> None:
        raise ConnectionError("no collector")

    monkeypatch.setattr(trace_exporter.OTLPSpanExporter, "export", refuse)
    monkeypatch.setattr(telemetry, "QUEUE", 2)
    monkeypatch.setattr(telemetry, "BATCH", 1)
    sender = SpanSender("http://127.0.0.1:9/v1/traces", 1.0, "a", Heard(), None)
    for _ in range(2):
        sender.spans.batch("write batch", [], 0, 1, failed=False)
    await sender.close()
    await asyncio.wait_for(heard.wait(), 30)
    assert exported["dropped"] == 0

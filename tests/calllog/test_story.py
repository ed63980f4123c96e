"""Tests of the story of a call: turns, waits and spans, of whatever an agent wrote."""

import json
import time

import pytest

from gateway.calllog.document import number_hint
from gateway.calllog.story import MOST_SPANS, story_of
from tests.page.calls import as_json, make_call


def test_a_call_is_told_turn_by_turn() -> None:
    """Who said what, how long the caller waited and why, and which span belongs to which turn."""
    story = story_of([as_json(make_call("a"))])
    assert story is not None
    assert (len(story.turns), story.spans_in_all) == (38, len(story.spans))
    slow = story.turns[21]
    assert (slow.number, slow.said, round(slow.ttft or 0)) == (22, "Okay.", 2940)
    assert slow.wait is not None
    assert story.slow_from is not None
    assert slow.wait > story.slow_from
    assert story.tokens == (59_593, 522)
    assert {span.turn for span in story.spans} == set(range(39))
    of_turn = [span.name for span in story.spans if span.turn == 2]
    assert of_turn[:4] == ["user_turn", "user_speaking", "stt_node", "eou_detection"]
    assert "find_patient" in of_turn
    (failed,) = [span for span in story.spans if span.fault]
    assert (failed.name, failed.turn, failed.fault) == ("send_payment_link", 13, "deadline of the payment service")


def test_core_and_detail_tell_it_together() -> None:
    """What the detail has is added to what the core has, whichever lacks it."""
    call = make_call("a", turns=3)
    detail = {name: call.pop(name) for name in ("telemetry_data", "transcript_with_metrics")}
    story = story_of([as_json(call), json.dumps({"call_id": "a", **detail}).encode()])
    assert story is not None
    assert (len(story.turns), story.agent_id) == (3, "appointments-en")
    alone = story_of([as_json(call)])
    assert alone is not None
    assert [turn.said for turn in alone.turns] == [turn.said for turn in story.turns]
    assert (alone.waits, alone.spans) == ([], ())


@pytest.mark.parametrize(
    "document",
    [
        b"[]", b"not json", b"", b"{}", b'{"call_id":"a","transcript_with_metrics":5,"telemetry_data":[]}',
        b'{"call_id":1e999,"transcript_with_metrics":[1,null,{"user_transcript":5,"llm_metrics":{"ttft":"x"}}]}',
        b'{"telemetry_data":{"session_traces":[{"context":{"span_id":"a"},"parent_span_id":"a"},{"name":7}]}}',
        b'{"telemetry_data":{"session_traces":[{"context":{"span_id":"a"},"parent_span_id":"b"},'
        b'{"context":{"span_id":"b"},"parent_span_id":"a"}]}}',
        b'{"call_started_at":"yesterday","call_ended_at":-1e300,"metadata":{"usage":[]},"customer_number":"\\ud800"}',
        b'{"telemetry_data":{"session_traces":[{"start_time_ns":99999999999999999999,"duration_ms":-5}]}}',
    ],
)  # fmt: skip
def test_nothing_that_an_agent_writes_breaks_it(document: bytes) -> None:
    """Wrong types, loops of parents, broken JSON: what cannot be read is left out."""
    story = story_of([document])
    assert story is None or len(story.spans) == story.spans_in_all


@pytest.mark.parametrize("began", [b"-1e15", b"-1", b'"0001-01-01T00:00:00+14:00"', b'"9999-12-31T23:59:59-14:00"'])
def test_a_time_without_a_date_is_none(began: bytes) -> None:
    """What lies before 1970 or behind 9999 cannot be shown, and is left out."""
    story = story_of([b'{"call_started_at":%b,"call_ended_at":%b,"transcript_json":[]}' % (began, began)])
    assert story is not None
    assert (story.started_at, story.ended_at) == (None, None)


def test_turns_lie_where_they_were_said_in_whatever_unit() -> None:
    """A JavaScript agent counts milliseconds; what cannot be a time is left out."""
    for unit in (1, 1000):
        said = [{"user_transcript": "x", "timestamp": unit * (1_769_860_800 + after)} for after in (2, 9)]
        log = {"call_started_at": 1_769_860_800 * unit, "transcript_with_metrics": said}
        story = story_of([json.dumps(log).encode()])
        assert story is not None
        assert [turn.at for turn in story.turns] == [2000, 9000]
    story = story_of([b'{"transcript_with_metrics":[{"timestamp":1e308,"tool_calls":[{"duration_ms":-1}]}]}'])
    assert story is not None
    assert (story.turns[0].at, story.turns[0].tools) == (None, (("tool", None),))
    story = story_of(
        [b'{"telemetry_data":{"session_traces":[{"start_time_ns":1%b,"duration_ms":1e308}]}}' % (400 * b"0")]
    )
    assert story is not None
    assert (story.spans[0].start, story.spans[0].took) == (0, 0)


def test_many_turns_and_many_spans_are_told_in_time() -> None:
    """Each span finds its turn without a look at all turns: 8,000 of both took 5 s, and 100,000 many minutes."""
    turns = [{"timestamp": number} for number in range(1, 8_001)]
    spans = [{"name": "x", "start_time_ns": number * 10**9} for number in range(1, 8_001)]
    document = json.dumps({"transcript_with_metrics": turns, "telemetry_data": {"session_traces": spans}}).encode()
    began = time.process_time()
    story = story_of([document])
    assert story is not None
    assert (story.spans_in_all, time.process_time() - began < 3) == (8_000, True)
    assert [span.turn for span in story.spans[:3]] == [1, 2, 3]


def test_of_very_many_spans_the_longest_are_kept() -> None:
    """A bounded number, in their order, and those whose parent is left out have none; it takes little time."""
    spans = [
        {"name": f"s{n % 7}", "operation_type": "llm", "start_time_ns": n * 1000, "duration_ms": n % 997,
         "context": {"span_id": str(n)}, "parent_span_id": str(n - 1)}
        for n in range(MOST_SPANS + 2000)
    ]  # fmt: skip
    started = time.perf_counter()
    story = story_of([json.dumps({"call_id": "a", "telemetry_data": {"session_traces": spans}}).encode()])
    assert time.perf_counter() - started < 3
    assert story is not None
    assert (len(story.spans), story.spans_in_all) == (MOST_SPANS, MOST_SPANS + 2000)
    assert all(-1 <= span.parent < MOST_SPANS for span in story.spans)


def test_numbers_are_kept_without_their_middle() -> None:
    """Nobody can be called by a hint."""
    hints = [number_hint(number) for number in ("+1 555 0100 100", "+4930123456", "1234567", "", "sip:a@b.example")]
    assert hints == ["+1 •••• 100", "+4 •••• 456", "•••• 67", "•••• ", "si •••• ple"]


def test_a_span_that_does_not_say_when_it_began_stands_at_the_start() -> None:
    """Not decades before it, which no axis could show."""
    call = {"call_started_at": 1_795_889_904, "telemetry_data": {"session_traces": [{"name": "x", "duration_ms": 5}]}}
    story = story_of([as_json(call)])
    assert story is not None
    assert [(span.start, span.took) for span in story.spans] == [(0.0, 5.0)]

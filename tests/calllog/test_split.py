"""How a large call log is split: what goes where, and how large the core may get."""

import json
from collections.abc import Mapping

import pytest

from gateway.calllog.document import Document, parse
from gateway.calllog.split import CORE_MAX_BYTES, SplitCallLog, split
from gateway.calllog.toplevel import Slice
from tests.calllog.joined_documents import core, detail, joined, top_level, whole

TURNS = [
    {"user_transcript": "hello", "agent_response": "good day", "llm_metrics": {"ttft": 0.5}},
    {"user_transcript": "", "agent_response": 'a "quote" é 😀'},
    {"user_transcript": None, "agent_response": None},
]


def split_log(members: Mapping[str, object], **options: int) -> tuple[Document, SplitCallLog]:
    call_log = parse(json.dumps({"call_id": "a", **members}).encode())
    return call_log, split(call_log, **options)


def members_of(document: bytes) -> dict[str, object]:
    pairs = top_level(document)
    assert len(pairs) == len(dict(pairs)), "a key appears twice"
    return dict(pairs)


def test_telemetry_and_turns_move_to_the_detail() -> None:
    """The core is the call log without telemetry and turns, the detail is these, and the whole is all of it."""
    original = {
        "agent_id": "g",
        "telemetry_data": {"session_traces": []},
        "customer": {"a": [1]},
        "transcript_with_metrics": TURNS,
        "last": 1,
    }
    _, parts = split_log(original)
    assert list(members_of(core(parts)))[:4] == ["call_id", "agent_id", "customer", "last"]
    assert members_of(detail(parts, "a")) == {
        "call_id": "a",
        "update_type": "detailed_telemetry",
        "telemetry_data": {"session_traces": []},
        "transcript_with_metrics": TURNS,
    }
    assert members_of(whole(parts)) == {"call_id": "a", **original}
    assert "update_type" not in members_of(core(parts))
    assert "duration_seconds" not in members_of(core(parts))


def test_core_has_summaries_and_a_plain_transcript() -> None:
    """Summaries and, where the call log has no transcript of its own, one made from the turns are in the core."""
    _, parts = split_log(
        {"transcript_with_metrics": TURNS, "telemetry_data": {"session_traces": [{"operation_type": "llm"}]}}
    )
    made = members_of(core(parts))
    assert made["summary_metrics"] == {
        "total_turns": 3,
        "avg_latency": 0.5,
        "avg_ttft": 0.5,
        "p50_ttft": 0.5,
        "p95_ttft": 0.5,
    }
    assert made["telemetry_summary"] == {
        "total_spans": 1,
        "operation_counts": {"llm": 1},
        "error_count": 0,
        "slowest_operations": [],
    }
    assert made["transcript_json"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
        {"role": "assistant", "content": 'a "quote" é 😀'},
    ]


@pytest.mark.parametrize("name", ["summary_metrics", "telemetry_summary", "transcript_json", "deferred_fields"])
@pytest.mark.parametrize("own", [None, {"mine": 1}, "text"])
def test_an_agents_own_member_wins(name: str, own: object) -> None:
    """A member that the agent sent is not replaced by a derived one of the same name, null included."""
    _, parts = split_log(
        {
            name: own,
            "transcript_with_metrics": TURNS,
            "telemetry_data": {"session_traces": []},
            "large": "x" * CORE_MAX_BYTES,
        }
    )
    assert members_of(core(parts))[name] == own
    assert members_of(whole(parts))[name] == own


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"transcript_with_metrics": []},
        {"transcript_with_metrics": "text", "telemetry_data": 7},
        {"transcript_with_metrics": None, "telemetry_data": None},
        {"telemetry_data": {}},
    ],
)
def test_nothing_is_derived_from_nothing(members: dict[str, object]) -> None:
    """Without turns there is no transcript, without spans no telemetry summary; odd types are no failure."""
    _, parts = split_log(members)
    made = members_of(core(parts))
    assert "transcript_json" not in made
    assert "telemetry_summary" not in made
    assert members_of(whole(parts)) == {"call_id": "a", **members}


def test_fragments_may_be_empty() -> None:
    """A call log with nothing to move and nothing to add has an empty rest and an empty derived."""
    _, parts = split_log({"b": 1})
    assert (joined(parts.text, parts.base), parts.derived, parts.rest) == (b'"call_id": "a", "b": 1', b"", ())


def test_the_largest_other_members_move_when_the_core_is_too_long() -> None:
    """As many of the largest other members move as must, and the core names them, the largest first."""
    fields = {"small": "s" * 1_000, "huge": "h" * 600_000, "big": "b" * 400_000, "mid": "m" * 300_000}
    _, parts = split_log(fields)
    made = members_of(core(parts))
    assert made["deferred_fields"] == ["huge", "big"]
    assert made["small"] == fields["small"]
    assert made["mid"] == fields["mid"]
    assert members_of(detail(parts, "a"))["big"] == fields["big"]
    assert members_of(whole(parts)) == {"call_id": "a", **fields}


def sized(limit: int, extra: int) -> tuple[Document, SplitCallLog]:
    empty = len(json.dumps({"call_id": "a", "x": "", "y": 1}))
    return split_log({"x": "x" * (limit - empty + extra), "y": 1}, core_max_bytes=limit)


def test_a_core_within_the_limit_is_not_taken_apart() -> None:
    """Nothing moves from a core that fits, a few bytes for separators allowed for, and something from one too long."""
    _, fits = sized(20_000, -8)
    assert b"deferred_fields" not in fits.derived
    _, moved = sized(20_000, 1)
    assert members_of(core(moved))["deferred_fields"] == ["x"]


HOSTILE: dict[str, dict[str, object]] = {
    "one giant": {"x": "x" * 2_000_000},
    "many small": {f"key_{number}": number for number in range(40_000)},
    "many equal": {f"k{number:06}": "v" * 100 for number in range(30_000)},
    "a giant name": {"n" * 1_000_000: 1},
    "many long names": {"n" * 5_000 + str(number): 1 for number in range(300)},
    "a giant identity": {"agent_id": "g" * 1_000_000, "customer_number": "1" * 1_000_000},
    "a giant transcript": {"transcript_with_metrics": [{"user_transcript": "word " * 200_000}]},
    "many operation types": {
        "telemetry_data": {"session_traces": [{"operation_type": f"{n}" * 300, "name": "é" * 999} for n in range(999)]}
    },
    "transcript and fields": {
        "transcript_with_metrics": [{"user_transcript": "word " * 40_000}],
        "x": "x" * 400_000,
        "y": "y" * 100_000,
    },
}


@pytest.mark.parametrize(
    ("limit", "indent"),
    [
        (16_384, 1),
        (CORE_MAX_BYTES, None),
        pytest.param(16_384, None, marks=pytest.mark.prove),
        pytest.param(CORE_MAX_BYTES, 1, marks=pytest.mark.prove),
    ],
)
@pytest.mark.parametrize("case", HOSTILE)
def test_core_never_exceeds_its_limit(case: str, limit: int, indent: int | None) -> None:
    """Whatever a call log is made of, its core keeps to the limit, keeps the call's id, and nothing is lost."""
    original = {"call_id": "a", "wcall_event": "call_ended", **HOSTILE[case]}
    parts = split(parse(json.dumps(original, indent=indent).encode()), core_max_bytes=limit)
    assert len(core(parts)) <= limit
    assert members_of(core(parts))["call_id"] == "a"
    assert members_of(core(parts))["wcall_event"] == "call_ended"
    assert members_of(whole(parts)) == original
    assert members_of(detail(parts, "a"))


def test_blanks_do_not_fill_a_core() -> None:
    """Whitespace between members and around colons does not count, because it is not passed on in a split."""
    blank = " " * 300_000
    posted = f'{{{blank}"call_id"{blank}:{blank}"a"{blank},{blank}"x":{blank}1,"telemetry_data":{{}} }}'.encode()
    parts = split(parse(posted))
    assert core(parts) == b'{"call_id":"a","x":1}'


def test_not_all_deferred_members_need_a_name() -> None:
    """When the names of deferred members would fill the core, the others are counted."""
    fields = {f"key_{number}": "v" * 10 for number in range(40_000)}
    _, parts = split_log(fields)
    made = members_of(core(parts))
    moved = len(members_of(detail(parts, "a"))) - 2
    assert isinstance(made["deferred_fields"], list)
    assert len(made["deferred_fields"]) + int(str(made["deferred_fields_unnamed"])) == moved


def test_made_transcript_pushes_other_members_out() -> None:
    """A transcript that the dashboard needs stays in the core when a larger configuration can move instead."""
    _, parts = split_log({"transcript_with_metrics": [{"user_transcript": "w" * 200_000}], "config": "c" * 400_000})
    made = members_of(core(parts))
    assert "transcript_json" in made
    assert made["deferred_fields"] == ["config"]


def test_update_type_of_the_agent_never_reaches_the_detail() -> None:
    """A detail has one update_type, its own, whatever the agent sent and however large."""
    _, parts = split_log({"update_type": "u" * 30_000, "x": "x" * 600_000})
    assert members_of(detail(parts, "a"))["update_type"] == "detailed_telemetry"


def test_values_are_slices_of_the_posted_body() -> None:
    """The parts that move are not copied."""
    call_log, parts = split_log({"telemetry_data": {"x": "x" * 100_000}, "b": 1})
    assert all(isinstance(piece, Slice) for piece in parts.rest)
    assert parts.text is call_log.top.text


@pytest.mark.parametrize("value", ["v" * 5_000, "v"], ids=["large values", "small values"])
def test_of_many_members_only_the_small_ones_are_copied(value: str) -> None:
    """Two thousand members that stay, each beside one that moves: what is large remains a slice."""
    members = {f"{name}{number}": value * (1 + (name == "m")) for number in range(2000) for name in "sm"}
    call_log, parts = split_log(members, core_max_bytes=100_000)
    copied = sum(len(piece) for piece in (*parts.base, *parts.rest) if isinstance(piece, bytes))
    assert members_of(whole(parts)) == {"call_id": "a", **members}
    assert copied < 5_000 * 4_000 / 10
    assert len(call_log.pieces) == 1


def test_duplicates_and_token_are_left_out_of_a_split() -> None:
    """Of duplicate keys only the last is in any part, and the token is in none."""
    posted = b'{"x": 1, "call_id": "a", "token": "t", "x": 2, "telemetry_data": 1, "telemetry_data": 2, "y": 3}'
    parts = split(parse(posted))
    assert core(parts) == b'{"call_id": "a","x": 2,"y": 3}'
    assert joined(parts.text, parts.rest) == b'"telemetry_data": 2'


def test_deferred_names_keep_their_escapes() -> None:
    """A name that no text can hold is deferred and named as it came."""
    parts = split(parse(b'{"call_id": "a", "\\ud800": "' + b"x" * 600_000 + b'"}'))
    assert b'"deferred_fields":["\\ud800"]' in parts.derived

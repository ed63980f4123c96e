"""Whatever JSON object goes in, the forms made of its parts read as the same members with the same values."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.calllog.document import credential, parse
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.scanner import scan_object
from gateway.calllog.split import split
from gateway.calllog.toplevel import scan
from tests.calllog.joined_documents import body, core, detail, top_level, whole

NAMES = st.one_of(
    st.sampled_from(
        [
            "call_id",
            "token",
            "telemetry_data",
            "transcript_with_metrics",
            "transcript_json",
            "summary_metrics",
            "deferred_fields",
            "update_type",
            "session_traces",
            "duration_ms",
            "user_transcript",
            "llm_metrics",
            "call_started_at",
            "call_ended_at",
        ]
    ),
    st.text(max_size=8),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**18, max_value=10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.7976931348623157e308, 5e-324, 0.1 + 0.2]),
    st.text(),
    st.text(alphabet='"\\/\n\té😀{}[],:N', max_size=12),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=6
)
MEMBERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
LAYOUTS = st.sampled_from([(", ", ": "), (",", ":"), (" ,\n\t", " :\r\n  ")])
LONE = st.text(alphabet=st.characters(categories=["Cs", "Lu"]), min_size=1, max_size=4)


def written(members: list[tuple[str, object]], layout: tuple[str, str], ascii_only: bool) -> bytes:
    """JSON with duplicate keys as given, always with a call id at the end."""
    comma, colon = layout
    pairs = [
        json.dumps(name, ensure_ascii=ascii_only) + colon + json.dumps(value, ensure_ascii=ascii_only)
        for name, value in [*members, ("call_id", "the call")]
    ]
    return ("{" + comma.join(pairs) + "}").encode()


def expected(document: bytes) -> dict[str, object]:
    """The members of a posted document, the last of duplicates, without the credential."""
    members = dict(top_level(document))
    return {name: value for name, value in members.items() if name != "token" or not is_credential(value)}


def is_credential(value: object) -> bool:
    return isinstance(value, str) and credential(value) is not None


def exact(document: bytes) -> dict[str, str]:
    """The top-level values with numbers as they were written, so that 1.0 is not 1 and no digit is lost."""
    loaded = json.loads(document, parse_float=lambda text: f"float {text}", parse_int=lambda text: f"int {text}")
    kept = expected(document)
    return {name: json.dumps(value) for name, value in loaded.items() if name in kept}


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(MEMBERS, LAYOUTS, st.booleans(), st.sampled_from([60, 2_000, 500_000]))
def test_forms_hold_the_members_that_came(
    members: list[tuple[str, object]], layout: tuple[str, str], ascii_only: bool, limit: int
) -> None:
    """Whole has exactly the members that came, core and detail share them out, and no number loses a digit."""
    posted = written(members, layout, ascii_only)
    original = expected(posted)
    call_log = parse(posted)
    parts = split(call_log, core_max_bytes=limit)

    assert expected(body(call_log)) == original
    assert exact(body(call_log)) == exact(posted)
    assert dict(top_level(whole(parts))) == original
    assert exact(whole(parts)) == exact(posted)
    for document in (whole(parts), core(parts), detail(parts, "the call")):
        names = [name for name, _ in top_level(document)]
        assert len(names) == len(set(names))
        assert "token" in original or "token" not in names
    in_core, in_detail = dict(top_level(core(parts))), dict(top_level(detail(parts, "the call")))
    assert in_detail.pop("update_type") == "detailed_telemetry"
    for name, value in original.items():
        assert in_core.get(name, in_detail.get(name)) == value
        assert name == "call_id" or (name in in_core) != (name in in_detail) or name == "update_type"


@settings(max_examples=200, deadline=None)
@given(MEMBERS, LAYOUTS, LONE)
def test_both_readers_find_the_same_members(
    members: list[tuple[str, object]], layout: tuple[str, str], lone: str
) -> None:
    """The scanner finds the members where the fast decoder does, and with lone surrogates around, too."""
    posted = written(members, layout, ascii_only=True)
    fast = [(member.start, member.key_end, member.value_start, member.end) for member in scan(posted).members()]
    assert [tuple(span) for span in scan_object(memoryview(posted))] == fast
    strange = written([("s", lone), (lone, "s"), *members], layout, ascii_only=True)
    assert expected(body(parse(strange))) == expected(strange)
    assert dict(top_level(whole(split(parse(strange))))) == expected(strange)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(MEMBERS, LAYOUTS, st.data())
def test_damage_is_found_or_harmless(
    members: list[tuple[str, object]], layout: tuple[str, str], data: st.DataObject
) -> None:
    """A damaged body is refused with a typed error, or what is passed on is JSON."""
    posted = bytearray(written(members, layout, ascii_only=False))
    for _ in range(data.draw(st.integers(1, 3))):
        posted[data.draw(st.integers(0, len(posted) - 1))] = data.draw(st.sampled_from(b'"\\{}[],:0NI\x00\xff\xc3 e-'))
    del posted[data.draw(st.integers(len(posted) // 2, len(posted))) :]
    refusal = None
    try:
        call_log = parse(bytes(posted))
    except CallLogError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code in set(Fault)
        assert refusal.position is None or 0 <= refusal.position <= len(posted)
        return
    top_level(body(call_log))
    top_level(whole(split(call_log)))
    top_level(core(split(call_log, core_max_bytes=100)))

"""Bodies that are no call logs: each gets a code, a position where there is one, and no word of its contents."""

import pytest

from gateway.calllog.document import parse
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.scanner import MAX_DEPTH


def fault_of(body: bytes) -> CallLogError:
    with pytest.raises(CallLogError) as caught:
        parse(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b"", 0),
        (b"  ", 2),
        (b"\xef\xbb\xbf", 3),
        (b"{", 1),
        (b'{"call_id": "a"', 15),
        (b'{"call_id": "a', 14),
        (b'{"call_id": "a"}}', 16),
        (b'{"call_id": "a"} {}', 17),
        (b'{"call_id": "a",}', 16),
        (b'{"call_id": "a" "b": 1}', 16),
        (b'{"call_id" "a"}', 11),
        (b'{"call_id": "a", "x": [1,]}', 25),
        (b'{"call_id": "a", "x": [1 2]}', 25),
        (b'{"call_id": "a", "x": {"b": 1,}}', 30),
        (b'{"call_id": "a", "x": {"b": [1, {"c": tru}]}}', 38),
        (b'{"call_id": "a", "x": 01}', 23),
        (b'{"call_id": "a", "x": .5}', 22),
        (b'{"call_id": "a", "x": "b\nc"}', 24),
        (b'{"call_id": "a", "x": "b\\qc"}', 24),
        (b'{"call_id": "a", "x": "\\u12g4"}', 23),
        (b'{"call_id": "a", "x\n": 1}', 19),
        (b"{1: 2}", 1),
        (b'{"call_id": "a", "x": NaN, "y": }', 32),
        (b'{"call_id": "a", "x": 1NaN}', 23),
        (b'{"call_id": "a", "x": --Infinity}', 22),
        (b'\xef\xbb\xbf{"call_id": "a", "x": [1,]}', 28),
        (b'{"call_id": "a", "x": "\\ud800", "y": [}', 38),
        (b'{"call_id": "a", ' + b'"x": ' + b"[" * 2_000 + b"1" + b"]" * 1_999 + b"}", 17 + 5 + 2_000 + 1 + 1_999),
    ],
)
def test_broken_json_is_refused_with_its_position(body: bytes, position: int) -> None:
    """Broken JSON is not_json, with the position of the first byte in the posted body that cannot stand there."""
    fault = fault_of(body)
    assert (fault.code, fault.position) == (Fault.NOT_JSON, position)
    assert not fault.unprocessable


@pytest.mark.parametrize("padding", [0, 5, 1 << 20, (1 << 20) - 26], ids=["none", "few", "step", "across a step"])
@pytest.mark.parametrize(
    ("wrong", "at"), [(b"\xff", 0), (b"\xc3(", 0), (b"\xed\xa0\x80", 0), ("é".encode() + b"\x80", 2), (b"\xc3", 0)]
)
def test_invalid_utf8_is_refused_with_its_position(padding: int, wrong: bytes, at: int) -> None:
    """Bytes that are not UTF-8 are refused where they stand, inside strings that nobody decodes, too."""
    start = b'{"call_id": "a", "x": "' + b"p" * padding
    fault = fault_of(start + wrong + b'"}')
    assert (fault.code, fault.position) == (Fault.NOT_UTF8, len(start) + at)


def test_cut_off_utf8_is_refused() -> None:
    """A body that ends within a character is refused at that character's first byte."""
    fault = fault_of(b'{"call_id": "\xf0\x9f\x98')
    assert (fault.code, fault.position) == (Fault.NOT_UTF8, 13)


@pytest.mark.parametrize("padding", [5, (1 << 20) - 24, (1 << 20) - 23], ids=["few", "across a step", "at a step"])
def test_valid_utf8_across_a_step_is_accepted(padding: int) -> None:
    """Characters of several bytes are accepted wherever the check's steps cut them."""
    body = b'{"call_id": "a", "x": "' + b"p" * padding + "é😀".encode() * 9 + b'"}'
    assert parse(body).raw_bytes == len(body)
    assert parse(memoryview(body)).raw_bytes == len(body)


@pytest.mark.parametrize("body", [b"[1]", b'"a"', b"1", b"null", b' [{"call_id": "a"}]', b"NaN", b'"\\ud800"'])
def test_other_json_is_not_an_object(body: bytes) -> None:
    """JSON that is no object is refused as such."""
    assert fault_of(body).code == Fault.NOT_AN_OBJECT


@pytest.mark.parametrize(
    ("body", "position"),
    [(b"hello", 0), (b" nope", 1), (b"[1,]", 3), (b"[1] x", 4), (b'"a', 2), (b"<html>", 0), (b"\x00", 0), (b"[", 1)],
)
def test_what_is_no_json_at_all_is_told_with_its_position(body: bytes, position: int) -> None:
    """A body that is not even JSON is not taken for JSON of another kind: the first wrong byte is named."""
    fault = fault_of(body)
    assert (fault.code, fault.position) == (Fault.NOT_JSON, position)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", Fault.NO_CALL_ID),
        (b'{"call_id": null}', Fault.NO_CALL_ID),
        (b'{"call_id": NaN}', Fault.NO_CALL_ID),
        (b'{"call_id": ""}', Fault.NO_CALL_ID),
        (b'{"call_id": " \\t"}', Fault.NO_CALL_ID),
        (b'{"call_id": "a", "call_id": null}', Fault.NO_CALL_ID),
        (b'{"call_id": {}}', Fault.BAD_CALL_ID),
        (b'{"call_id": ["a"]}', Fault.BAD_CALL_ID),
        (b'{"call_id": true}', Fault.BAD_CALL_ID),
        (b'{"call_id": "\\ud800"}', Fault.BAD_CALL_ID),
        (b'{"call_id": "' + b"i" * 513 + b'"}', Fault.BAD_CALL_ID),
        (b'{"call_id": ' + b"1" * 513 + b"}", Fault.BAD_CALL_ID),
    ],
)
def test_unusable_call_ids_are_told_apart(body: bytes, code: Fault) -> None:
    """A missing or empty call_id is no_call_id, one of a wrong kind bad_call_id, both unprocessable."""
    fault = fault_of(body)
    assert fault.code == code
    assert fault.unprocessable


def test_nesting_is_accepted_up_to_a_limit() -> None:
    """Nesting far beyond the fast decoder's limit passes unchanged; beyond the scanner's it is too_deep."""
    levels = MAX_DEPTH - 1
    deepest = b'{"call_id": "a", "x": ' + b"[" * levels + b"]" * levels + b', "token": "t"}'
    assert b"".join(parse(deepest).pieces) == deepest.replace(b', "token": "t"', b"")
    fault = fault_of(b'{"call_id": "a", "x": ' + b'{"":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"}")
    assert (fault.code, fault.position) == (Fault.TOO_DEEP, 22 + 4 * levels)


@pytest.mark.parametrize(
    "body", [b'{"call_id": "a", "x": "s3cret" 1}', b'{"call_id": {"a": "s3cret"}}', b'{"x": "s3cret\xff"}']
)
def test_errors_do_not_quote_the_body(body: bytes) -> None:
    """Neither message nor hint repeats what was posted: it may be personal or secret."""
    fault = fault_of(body)
    assert "s3cret" not in fault.message + fault.hint + str(fault)

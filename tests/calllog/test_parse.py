"""What `parse` makes of sound call logs."""

import hashlib
import json
import mmap
from pathlib import Path

import pytest

from gateway.calllog.document import DEFAULT_EVENT, DETAIL_EVENT, MAX_NAME_LENGTH, REFERENCE_EVENT, parse
from tests.calllog.joined_documents import body

LITERALS = [
    "1795300690087249415",
    "0.000284083999986251",
    "1.7976931348623157e308",
    "1e999",
    "123456789012345678901234567890",
    "-0",
    "0.10000000000000000000",
    '"a \\"quoted\\" \\/ \\u00e9 \\ud83d\\ude00 \\\\"',
    '"é 😀"',
    '[ 1 , { "a" : [ ] } ]',
    "true",
]


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "large"])
def test_values_keep_every_byte(literal: str, size: int) -> None:
    """A value comes out as the bytes that came in, in the pieces and as a member."""
    posted = f'{{"call_id": "a", "x": {literal}, "fill": "{"f" * size}"}}'.encode()
    call_log = parse(posted)
    assert body(call_log) == posted
    assert bytes(call_log.members["x"].value) == literal.encode()
    assert bytes(call_log.members["x"].key) == b'"x"'


def test_a_body_without_token_is_not_copied() -> None:
    """Without a token and without non-finite numbers the one piece is the posted object itself."""
    posted = b'{"call_id":"a"}'
    assert parse(posted).pieces == (posted,)
    assert parse(posted).pieces[0] is posted


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_any_buffer_is_read(wrap: type) -> None:
    """The buffer's type makes no difference to what is read."""
    posted = b'{"call_id": "a", "agent_id": "b", "wcall_event": "call_ended", "environment": "dev", "token": "t"}'
    call_log = parse(wrap(posted))
    assert (call_log.call_id, call_log.agent_id, call_log.event) == ("a", "b", "call_ended")
    assert (call_log.environment, call_log.token) == ("dev", "t")
    assert body(call_log) == posted.replace(b', "token": "t"', b"")


def test_a_mapped_file_is_read_in_place(tmp_path: Path) -> None:
    """A call log is parsed straight from a mapped file, and its pieces are views into that."""
    path = tmp_path / "call.json"
    path.write_bytes(b'{"call_id": "a", "fill": "' + b"f" * 200_000 + b'"}')
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        call_log = parse(mapped)
        assert isinstance(call_log.pieces[0], memoryview)
        assert call_log.pieces[0].obj is mapped
        assert body(call_log) == path.read_bytes()
        assert len(call_log.members["fill"].value) == 200_002
        del call_log


@pytest.mark.parametrize("length", [2046, 2047, 2048, 4094, 65_535, 65_536, 65_537, 200_000])
def test_the_digest_is_that_of_the_whole_body(length: int) -> None:
    """In however many steps it is made."""
    body = b'{"call_id": "a", "x": "' + b"y" * (length - 25) + b'"}'
    assert len(body) == length
    assert parse(body).digest == hashlib.sha256(body).digest()


def test_digest_and_length_are_those_of_the_pieces() -> None:
    """Digest and raw bytes belong to the body without its token, so that a retry with another token is the same."""
    first, second = (parse(f'{{"call_id": "a", "token": "{token}"}}'.encode()) for token in ("one", "other"))
    assert first.digest == second.digest == hashlib.sha256(b'{"call_id": "a"}').digest()
    assert first.raw_bytes == len(b'{"call_id": "a"}')


@pytest.mark.parametrize(
    ("literal", "call_id"),
    [
        ('"a"', "a"),
        ('"\\u0041"', "A"),
        ("123", "123"),
        ("-1.50", "-1.50"),
        ("12345678901234567890123", "12345678901234567890123"),
        ('"' + "i" * MAX_NAME_LENGTH + '"', "i" * MAX_NAME_LENGTH),
        ('" a "', " a "),
    ],
)
def test_call_id_is_text_or_the_text_of_a_number(literal: str, call_id: str) -> None:
    """A call id is its decoded text; a number is named by its literal text, and the body does not change."""
    posted = f'{{"call_id": {literal}}}'.encode()
    assert parse(posted).call_id == call_id
    assert body(parse(posted)) == posted


@pytest.mark.parametrize(
    ("members", "event"),
    [
        ("", DEFAULT_EVENT),
        (', "wcall_event": "call_started"', "call_started"),
        (', "wcall_event": ""', DEFAULT_EVENT),
        (', "wcall_event": null', DEFAULT_EVENT),
        (', "wcall_event": 7', DEFAULT_EVENT),
        (', "wcall_event": "' + "e" * 600 + '"', "e" * MAX_NAME_LENGTH),
        (', "s3_reference": true, "s3_key": "k"', REFERENCE_EVENT),
        (', "s3_reference": true, "s3_key": "k", "wcall_event": "call_ended"', REFERENCE_EVENT),
        (', "s3_reference": true', DEFAULT_EVENT),
        (', "update_type": "detailed_telemetry"', DETAIL_EVENT),
        (', "update_type": "detailed_telemetry", "wcall_event": "call_ended"', DETAIL_EVENT),
        (', "update_type": "recording_ready"', "recording_ready"),
        (', "update_type": "recording_ready", "wcall_event": "call_ended"', "call_ended"),
        (', "update_type": 7', DEFAULT_EVENT),
        (', "s3_reference": false, "s3_key": "k"', DEFAULT_EVENT),
    ],
)
def test_event_always_has_a_name(members: str, event: str) -> None:
    """The event is `wcall_event`, else `update_type`, else a default; references and details have their own."""
    assert parse(f'{{"call_id": "a"{members}}}'.encode()).event == event


@pytest.mark.parametrize("literal", ["null", "5", '""', "{}", '"\\ud800"'])
def test_unusable_agent_id_and_environment_are_none(literal: str) -> None:
    """An agent id or environment that names nothing is None and refuses nothing."""
    call_log = parse(f'{{"call_id": "a", "agent_id": {literal}, "environment": {literal}}}'.encode())
    assert (call_log.agent_id, call_log.environment) == (None, None)


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "large"])
def test_the_last_of_duplicate_keys_wins(size: int) -> None:
    """Of duplicate keys, escaped ones included, the last is read, and the body passes as it came."""
    posted = (
        '{"call_id": "first", "x": [1, "call_id", 2], "call_\\u0069d": "last", "x": "1", "fill": "%s"}' % ("f" * size)
    ).encode()
    call_log = parse(posted)
    assert call_log.call_id == "last"
    assert body(call_log) == posted
    assert {name: bytes(member.value) for name, member in call_log.members.items() if name != "fill"} == {
        "call_id": b'"last"',
        "x": b'"1"',
    }


def test_byte_order_mark_is_stripped() -> None:
    """A UTF-8 byte order mark before the object is accepted and not passed on."""
    assert body(parse(b'\xef\xbb\xbf{"call_id": "a"}')) == b'{"call_id": "a"}'


def test_members_leave_the_token_out_and_keep_the_order() -> None:
    """The members come in the document's order, without the token."""
    posted = b' {"z": 1,\n "token": "t",\t"call_id" : "a" , "b":[]} '
    assert list(parse(posted).members) == ["z", "call_id", "b"]


def test_many_members_are_all_found() -> None:
    """Every one of many members is found where it lies."""
    values = {f"k{number}": number for number in range(20_000)}
    members = parse(json.dumps({"call_id": "a", **values}).encode()).members
    assert {name: int(bytes(member.value)) for name, member in members.items() if name != "call_id"} == values

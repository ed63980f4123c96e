"""What kind of body was posted."""

import base64
import gzip
import json
import mmap

import pytest

from gateway.calllog.document import Document, Envelope, Posted, UploadRequest
from gateway.calllog.document import recognise as recognise_top
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.toplevel import scan

PACKED = gzip.compress(json.dumps({"call_id": "a", "x": [n * 7919 for n in range(999)]}).encode(), mtime=0)
DATA = base64.b64encode(PACKED).decode()


def recognise(body: bytes | mmap.mmap) -> Posted:
    return recognise_top(scan(body))


def packed_in(body: bytes | mmap.mmap) -> bytes:
    envelope = recognise(body)
    assert isinstance(envelope, Envelope)
    return base64.b64decode(json.loads(bytes(envelope.text[envelope.data.start : envelope.data.end])))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"compressed": True, "data": DATA}),
        json.dumps({"data": DATA, "compressed": True}),
        json.dumps({"compression_ratio": 0.1, "original_size": 9, "compressed": True, "data": DATA}, indent=2),
        json.dumps({"compressed": True, "data": DATA}).replace("/", "\\/"),
        json.dumps({"compressed": True, "data": DATA}).replace(DATA[0], f"\\u{ord(DATA[0]):04x}"),
        json.dumps({"compressed": True, "data": DATA, "compression_ratio": float("nan")}),
    ],
    ids=["as sent", "other order", "with sizes", "escaped slashes", "escaped letters", "with NaN"],
)
def test_envelope_gives_its_data(body: str) -> None:
    """An envelope is recognised whatever the order of its keys, and its data is the text as it came."""
    assert packed_in(body.encode()) == PACKED


def test_envelope_in_a_mapping() -> None:
    """The data is a view into mapped memory."""
    body = json.dumps({"compressed": True, "data": DATA}).encode()
    with mmap.mmap(-1, len(body)) as mapped:
        mapped.write(body)
        assert packed_in(mapped) == PACKED


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"call_id": "a", "wcall_event": "call_started"}, Document),
        ({"call_id": "a"}, Document),
        ({"call_id": "a", "compressed": True, "data": "x"}, Document),
        ({"call_id": "a", "content_type": "application/json"}, UploadRequest),
        ({"content_type": "application/json", "call_id": 5}, UploadRequest),
        ({"call_id": "a", "content_type": "application/json", "agent_id": "b"}, Document),
        ({"s3_reference": True, "s3_bucket": "b", "s3_key": "k", "call_id": "a", "agent_id": "g"}, Document),
        ({"s3_reference": "yes", "s3_key": "k", "call_id": "a"}, Document),
        ({"s3_reference": True, "call_id": "a"}, Document),
        ({"compressed": True, "data": "x"}, Envelope),
        ({"compressed": True, "data": "x", "token": "t"}, Envelope),
    ],
)
def test_kinds_are_told_by_their_members(body: dict[str, object], kind: type) -> None:
    """Each kind of body is told by its top-level members alone; one with a call_id is never an envelope."""
    assert type(recognise(json.dumps(body).encode())) is kind


@pytest.mark.parametrize(
    "body",
    [
        {"compressed": 1, "data": "x"},
        {"compressed": False, "data": "x"},
        {"compressed": True},
        {"content_type": "application/json"},
        {"s3_reference": True, "s3_key": "k"},
        {"call_id": None, "content_type": "application/json"},
    ],
)
def test_what_names_no_call_is_refused(body: dict[str, object]) -> None:
    """Whatever is no envelope needs a call_id."""
    with pytest.raises(CallLogError) as caught:
        recognise(json.dumps(body).encode())
    assert caught.value.code == Fault.NO_CALL_ID


def test_reference_says_where_the_object_lies() -> None:
    """A reference names its object, and is itself a call log that can be spooled."""
    body = json.dumps({"s3_reference": True, "s3_bucket": "b", "s3_key": "k/1", "call_id": "a", "agent_id": "g"})
    reference = recognise(body.encode())
    assert isinstance(reference, Document)
    assert (reference.is_reference, reference.s3_key) == (True, "k/1")
    assert (reference.call_id, reference.event) == ("a", "s3_reference")
    assert b"".join(reference.pieces) == body.encode()


def test_upload_request_says_for_what() -> None:
    """A request for an upload address names the call."""
    assert recognise(b'{"call_id": 12, "content_type": "application/json"}') == UploadRequest("12")
    assert recognise(b'{"call_id": "a", "content_type": null}') == UploadRequest("a")


@pytest.mark.parametrize("flag", ['"yes"', "false", "1"])
def test_only_a_true_flag_makes_a_reference(flag: str) -> None:
    """A call log with a field of that name is none."""
    document = recognise(b'{"s3_reference": %b, "s3_key": "k", "call_id": "a"}' % flag.encode())
    assert isinstance(document, Document)
    assert (document.is_reference, document.s3_key) == (False, None)

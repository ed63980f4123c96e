"""The documents of a record: whole, core, detail and notice, with every value as it came."""

import json

import pytest

from spool.errors import CorruptPayload
from spool.payload.frames import decode
from spool.records import Delivery, Form, Fragment
from tests.uploaders.deliveries import Payloads, a_delivery, a_record, large_fragments
from uploaders.document.render import BadLocation, parse_location, raw_bytes_of, render


async def text_of(payloads: Payloads, delivery: Delivery) -> bytes:
    joined = b""
    for piece in render(delivery):
        if isinstance(piece, bytes):
            joined += piece
            continue
        async for frame in payloads.frames(delivery.record, piece):
            joined += decode(frame)
    return joined


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form.CORE, b'{"call_id": "call-1", "n": 1.10,"summary_metrics": {"total_turns": 2}}'),
        (Form.WHOLE, b'{"call_id": "call-1", "n": 1.10,"telemetry_data": {"spans": [1, 2.50]}}'),
        (
            Form.DETAIL,
            b'{"call_id": "call-1", "update_type": "detailed_telemetry","telemetry_data": {"spans": [1, 2.50]}}',
        ),
    ],
)
async def test_a_large_record_gives_each_form_with_its_values_as_they_came(form: Form, expected: bytes) -> None:
    """Each form of a large record joins its own fragments, byte for byte."""
    payloads = Payloads()
    delivery = a_delivery(a_record(payloads, fragments=large_fragments()), form)
    assert await text_of(payloads, delivery) == expected
    assert raw_bytes_of(delivery.record, render(delivery)) == len(expected)


async def test_a_call_that_is_named_by_a_number_keeps_it() -> None:
    """The call_id of a detail is of the type that was posted."""
    payloads = Payloads()
    fragments = {**large_fragments(), Fragment.CALL_ID: b"17"}
    delivery = a_delivery(a_record(payloads, fragments=fragments), Form.DETAIL)
    sent = await text_of(payloads, delivery)
    assert sent == b'{"call_id": 17, "update_type": "detailed_telemetry","telemetry_data": {"spans": [1, 2.50]}}'
    assert raw_bytes_of(delivery.record, render(delivery)) == len(sent)


@pytest.mark.parametrize("form", [Form.WHOLE, Form.CORE])
async def test_a_small_record_is_its_body(form: Form) -> None:
    """A small record is sent as it came, without any glue."""
    payloads = Payloads()
    delivery = a_delivery(a_record(payloads, fragments={Fragment.BODY: b' {"call_id":"x"}\n'}), form)
    assert await text_of(payloads, delivery) == b' {"call_id":"x"}\n'


@pytest.mark.parametrize(
    ("fragments", "form", "keys"),
    [
        ({Fragment.BASE: b'"a":1', Fragment.DERIVED: b""}, Form.CORE, {"a"}),
        ({Fragment.BASE: b'"a":1'}, Form.CORE, {"a"}),
        ({Fragment.BASE: b"", Fragment.DERIVED: b'"d":1'}, Form.CORE, {"d"}),
        ({Fragment.BASE: b"", Fragment.REST: b'"r":1'}, Form.WHOLE, {"r"}),
        ({Fragment.BASE: b'"a":1', Fragment.REST: b""}, Form.WHOLE, {"a"}),
        ({Fragment.BASE: b"", Fragment.REST: b""}, Form.WHOLE, set()),
        ({Fragment.BASE: b'"a":1', Fragment.REST: b""}, Form.DETAIL, {"call_id", "update_type"}),
    ],
)
async def test_an_empty_or_missing_fragment_leaves_no_stray_comma(
    fragments: dict[Fragment, bytes], form: Form, keys: set[str]
) -> None:
    """Whatever fragments are empty or missing, the form is valid JSON with the members of the others."""
    payloads = Payloads()
    delivery = a_delivery(a_record(payloads, fragments=fragments), form)
    assert set(json.loads(await text_of(payloads, delivery))) == keys


@pytest.mark.parametrize(
    ("fragments", "form"),
    [
        ({Fragment.BODY: b"{}"}, Form.DETAIL),
        ({Fragment.DERIVED: b'"d":1'}, Form.CORE),
        ({Fragment.REST: b'"r":1'}, Form.WHOLE),
        ({}, Form.WHOLE),
    ],
)
def test_a_form_without_its_fragment_is_refused(fragments: dict[Fragment, bytes], form: Form) -> None:
    """A record without the fragment its form is made of is corrupt, rather than sent as an empty document."""
    with pytest.raises(CorruptPayload, match="spool1-1"):
        render(a_delivery(a_record(fragments=fragments), form))


@pytest.mark.parametrize("call_id", ['quote"back\\slash', "zero\x00byte", "naïve ☎ 電話", "lone \udc80 surrogate"])
async def test_any_call_id_survives_the_glue(call_id: str) -> None:
    """A detail and a notice name the call exactly, whatever characters its id has."""
    payloads = Payloads()
    record = a_record(payloads, fragments=large_fragments(), call_id=call_id)
    detail = json.loads(await text_of(payloads, a_delivery(record, Form.DETAIL)))
    notice = json.loads(await text_of(payloads, a_delivery(record, Form.NOTICE, location="s3://b/k")))
    assert (detail["call_id"], notice["call_id"]) == (call_id, call_id)


async def test_a_notice_tells_of_the_object() -> None:
    """A notice has the six members that the SDK sends, taken from the record and the object's location."""
    delivery = a_delivery(a_record(environment=None), Form.NOTICE, location="s3://bucket/2025/a b/é.json")
    assert json.loads(await text_of(Payloads(), delivery)) == {
        "s3_reference": True,
        "s3_bucket": "bucket",
        "s3_key": "2025/a b/é.json",
        "call_id": "call-1",
        "agent_id": "agent-1",
        "environment": None,
    }


@pytest.mark.parametrize("location", [None, "", "s3://", "s3://bucket", "s3://bucket/", "s3:///key", "file:///x/y"])
def test_a_notice_without_an_object_is_refused(location: str | None) -> None:
    """Only s3://bucket/key is a location that a notice can tell of."""
    with pytest.raises(BadLocation):
        parse_location(location)

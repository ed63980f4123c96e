"""A reduced detail over a real socket: made of the stored detail, in any encoding, never a guess when it cannot be."""

import gc
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from bench.endpoint import Endpoint
from spool.errors import CorruptPayload
from spool.records import Buffer, Delivery, Form, Fragment
from tests.uploaders.deliveries import Payloads, a_delivery, a_record, deliver, large_fragments
from uploaders.base import Delivered, Refused, RetryLater
from uploaders.document.encoding import BLOCK_BYTES, NotReducible, ReducedDocument, Reduction
from uploaders.document.options import Encoding

REST_BYTES = 3 * BLOCK_BYTES


def first_half(detail: Buffer) -> Sequence[Buffer]:
    """Stands for a policy: a document that holds half of what it was given, in pieces large and small."""
    document = json.loads(bytes(detail))
    half = memoryview(detail)[: len(detail) // 2].tobytes().hex().encode()
    opening = json.dumps({"call_id": document["call_id"], "update_type": "detailed_telemetry"}).encode()[:-1]
    return [opening, b"", b',"half":"', half, b'"', b"}"]


def none_at_all(detail: Buffer) -> Sequence[Buffer]:
    raise NotReducible("it cannot be read")


@cache
def a_rest(size: int) -> bytes:
    """Telemetry of this size, which takes half a second to make."""
    return b'"telemetry_data": "' + bytes(48 + (at * at // 7) % 74 for at in range(size)).replace(b"\\", b"/") + b'"'


def a_reduced_delivery(payloads: Payloads, rest_bytes: int = REST_BYTES) -> Delivery:
    return a_delivery(a_record(payloads, fragments=large_fragments(a_rest(rest_bytes))), Form.REDUCED)


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_a_reduced_detail_arrives_in_every_encoding(encoding: Encoding, tmp_path: Path) -> None:
    """What the policy made of the stored detail arrives as one document, and no file is left behind."""
    payloads = Payloads()
    delivery = a_reduced_delivery(payloads)
    async with Endpoint() as endpoint:
        core = a_delivery(delivery.record, Form.CORE)
        assert await deliver(endpoint.url, payloads, core) == Delivered()
        reduction = Reduction(first_half, tmp_path)
        outcome = await deliver(
            endpoint.url, payloads, delivery, encoding=encoding, reduction=reduction, max_request_bytes=20_000_000
        )
        assert outcome == Delivered()
        document = json.loads(endpoint.documents[delivery.idempotency_key])
    assert bytes.fromhex(document["half"]).startswith(b'{"call_id": "call-1", "update_type"')
    assert len(document["half"]) > REST_BYTES - 1000
    assert list(tmp_path.iterdir()) == []
    gc.collect()  # a mapping or file that was not given back would warn, and fail the test


@pytest.mark.parametrize("encoding", [Encoding.IDENTITY, Encoding.ENVELOPE])
async def test_a_reduced_detail_that_is_still_too_large_is_refused(encoding: Encoding, tmp_path: Path) -> None:
    """It exceeds max_request_bytes like anything else: refused for its size, before anything is sent."""
    payloads = Payloads()
    options = {"reduction": Reduction(first_half, tmp_path), "encoding": encoding, "max_request_bytes": 10_000}
    outcome = await deliver("http://127.0.0.1:9/never", payloads, a_reduced_delivery(payloads), **options)
    assert isinstance(outcome, Refused)
    assert outcome.too_large


@pytest.mark.parametrize("reduce", [none_at_all, None])
async def test_what_cannot_be_reduced_is_refused_with_its_reason(reduce: object, tmp_path: Path) -> None:
    """No retry would help: a detail that cannot be read, and a destination that reduces no more."""
    payloads = Payloads()
    reduction = Reduction(none_at_all, tmp_path) if reduce else None
    outcome = await deliver(
        "http://127.0.0.1:9/never", payloads, a_reduced_delivery(payloads, 100), reduction=reduction
    )
    assert isinstance(outcome, Refused)
    assert not outcome.too_large
    assert ("cannot be read" if reduce else "no longer reduces details") in outcome.reason


async def test_no_room_for_the_file_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """The disk is this machine's, and may have room later."""
    payloads = Payloads()
    reduction = Reduction(first_half, tmp_path / "missing")
    outcome = await deliver(
        "http://127.0.0.1:9/never", payloads, a_reduced_delivery(payloads, 100), reduction=reduction
    )
    assert isinstance(outcome, RetryLater)
    assert "temporary file" in outcome.reason


async def test_a_broken_payload_is_told_as_that(tmp_path: Path) -> None:
    """Damage in the spool is not taken for a small detail."""
    payloads = Payloads()
    delivery = a_reduced_delivery(payloads, 100)
    payloads.corrupt(delivery.record.record_id, Fragment.REST)
    with pytest.raises(CorruptPayload):
        await deliver("http://127.0.0.1:9/never", payloads, delivery, reduction=Reduction(first_half, tmp_path))


@pytest.mark.parametrize("lengths", [[], [0], [1, 0, 2], [BLOCK_BYTES], [BLOCK_BYTES + 1, 1], [5, 3 * BLOCK_BYTES, 5]])
def test_blocks_hold_all_pieces_in_order(lengths: list[int]) -> None:
    """Whatever the pieces are like, the blocks are bounded and joined they are the document."""
    pieces = [bytes([65 + at]) * length for at, length in enumerate(lengths)]
    document = ReducedDocument(pieces)
    blocks = list(document.blocks())
    assert b"".join(blocks) == b"".join(pieces)
    assert document.raw_bytes == sum(lengths)
    assert max(map(len, blocks)) <= BLOCK_BYTES
    assert len(blocks) <= sum(lengths) // BLOCK_BYTES * 2 + 1

"""Builds records, deliveries and payloads of real zstd frames for the tests of the uploaders."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import zstandard

from spool.errors import CorruptPayload
from spool.records import Delivery, Form, Fragment, Lane, Record, StoredFragment
from uploaders.base import Delivered, Outcome, Refused, RetryLater
from uploaders.http.uploader import HttpOptions, HttpUploader

FRAME_BYTES = 1 << 20
ACCEPTED_AT = 1_750_000_000_000

LANE_OF = {form: Lane.DETAIL if form in {Form.DETAIL, Form.REDUCED} else Lane.CORE for form in Form}


class Payloads:
    """A `PayloadReader` over frames made here; keeps what each record's fragments hold."""

    def __init__(self, tokens: Mapping[int, str] | None = None) -> None:
        self._frames: dict[tuple[int, Fragment], list[bytes]] = {}
        self.tokens = dict(tokens or {})
        self.frames_read = 0

    def store(self, record_id: int, fragments: Mapping[Fragment, bytes]) -> dict[Fragment, StoredFragment]:
        """Compress the fragments in frames of 1 MiB and return how they lie."""
        stored: dict[Fragment, StoredFragment] = {}
        for name, raw in fragments.items():
            cuts = [raw[at : at + FRAME_BYTES] for at in range(0, len(raw), FRAME_BYTES)]
            frames = [zstandard.ZstdCompressor(level=1, write_checksum=True).compress(cut) for cut in cuts]
            self._frames[record_id, name] = frames
            stored[name] = StoredFragment(len(frames), len(raw), sum(map(len, frames)))
        return stored

    def corrupt(self, record_id: int, fragment: Fragment) -> None:
        """Lose this fragment's frames, as a bad disk would."""
        del self._frames[record_id, fragment]

    async def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        if (record.record_id, fragment) not in self._frames:
            raise CorruptPayload(f"chunk 0 of record {record.uid} is missing")
        for frame in self._frames[record.record_id, fragment]:
            self.frames_read += 1
            yield frame

    async def token(self, token_id: int) -> str | None:
        return self.tokens.get(token_id)


def a_record(payloads: Payloads | None = None, record_id: int = 1, **fields: Any) -> Record:
    """A record of call `call-<id>`; `fragments` maps fragments to their raw bytes."""
    raw = fields.pop("fragments", {Fragment.BODY: b'{"call_id": "call-%d"}' % record_id})
    stored = (payloads or Payloads()).store(record_id, raw)
    values: dict[str, Any] = {
        "record_id": record_id,
        "uid": f"spool1-{record_id}",
        "call_id": f"call-{record_id}",
        "agent_id": "agent-1",
        "event": "call_ended",
        "environment": "dev",
        "digest": bytes(32),
        "raw_bytes": sum(map(len, raw.values())),
        "stored_bytes": sum(part.stored_bytes for part in stored.values()),
        "accepted_at": ACCEPTED_AT,
        "token_id": None,
        "first_chunk": record_id,
        "fragments": stored,
    }
    return Record(**(values | fields))


def a_delivery(record: Record | None = None, form: Form = Form.WHOLE, **fields: Any) -> Delivery:
    """A fresh delivery of this record to `endpoint`."""
    values: dict[str, Any] = {
        "record": record or a_record(),
        "destination": "endpoint",
        "form": form,
        "lane": LANE_OF[form],
        "attempts": 0,
        "due_at": 0,
        "first_failed_at": None,
    }
    return Delivery(**(values | fields))


def failed(outcome: Outcome) -> RetryLater | Refused:
    """The outcome of an attempt that is to fail."""
    assert not isinstance(outcome, Delivered)
    return outcome


def large_fragments(rest: bytes = b'"telemetry_data": {"spans": [1, 2.50]}') -> dict[Fragment, bytes]:
    """The three fragments of a large call log."""
    return {
        Fragment.BASE: b'"call_id": "call-1", "n": 1.10',
        Fragment.DERIVED: b'"summary_metrics": {"total_turns": 2}',
        Fragment.REST: rest,
    }


TOKEN = "pk_live_secret-token"


@asynccontextmanager
async def an_uploader(url: str, payloads: Payloads, **options: Any) -> AsyncIterator[HttpUploader]:
    uploader = HttpUploader(HttpOptions(url, **options), payloads, lambda: ACCEPTED_AT)
    try:
        yield uploader
    finally:
        await uploader.close()


async def deliver(url: str, payloads: Payloads, delivery: Delivery, **options: Any) -> Outcome:
    async with an_uploader(url, payloads, **options) as uploader:
        return await uploader.deliver(delivery)


def a_payload(rest_bytes: int = 1000, **fields: Any) -> tuple[Payloads, Callable[[Form], Delivery]]:
    payloads = Payloads({7: TOKEN})
    record = a_record(
        payloads,
        token_id=7,
        fragments=large_fragments(b'"telemetry_data": "' + b"s" * rest_bytes + b'"'),
        **fields,
    )
    return payloads, lambda form: a_delivery(record, form, location="s3://b/k" if form is Form.NOTICE else None)

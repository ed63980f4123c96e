"""Makes an HTTP uploader for a test and delivers with it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from spool.records import Delivery, Form
from tests.uploaders.building import ACCEPTED_AT, Payloads, a_delivery, a_record, large_fragments
from uploaders.base import Outcome
from uploaders.http.uploader import HttpOptions, HttpUploader

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


def a_payload(rest_bytes: int = 1000) -> tuple[Payloads, Callable[[Form], Delivery]]:
    payloads = Payloads({7: TOKEN})
    record = a_record(
        payloads, token_id=7, fragments=large_fragments(b'"telemetry_data": "' + b"s" * rest_bytes + b'"')
    )
    return payloads, lambda form: a_delivery(record, form, location="s3://b/k" if form is Form.NOTICE else None)

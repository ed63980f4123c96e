"""Delivers to a pipeline: what is needed of a call goes into the queue of a store, and the payload is done with.

Nothing here asks a model. A delivery ends with the transaction that queues the call, some 20 KB of it, so that a model
that is down for a day leaves a spool as empty as it was.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import structs

from spool.payload.frames import decode
from spool.records import REQUEST_FORMS, Delivery, Form, Fragment
from uploaders.base import Delivered, Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.body import SpillingBuffer
from uploaders.document.render import BadLocation, render
from uploaders.pipeline.transcript import read_text
from uploaders.rate_limit import UNLIMITED, Bandwidth, paced
from uploaders.stores.parts import key_text
from uploaders.stores.pipeline import CallText, NewText
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.store import PartRefused, StoreError, StoreRefused

FORMS: Final = REQUEST_FORMS
BATCH: Final = 100


class PipelineUploader:
    """Queues calls in the tables that `tables` gives, once the store is there; `queued` is called after that."""

    batch_size = BATCH

    def __init__(
        self, tables: Callable[[], PipelineTables], payloads: PayloadReader, queued: Callable[[], None],
        scratch: Path, bandwidth: Bandwidth = UNLIMITED,
    ) -> None:  # fmt: skip
        """`scratch` is a directory for a large call log while it is read."""
        self._scratch = scratch
        self._tables = tables
        self._payloads = payloads
        self._queued = queued
        self._bandwidth = bandwidth

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Queue one call."""
        return (await self.deliver_many([delivery]))[0]

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Queue calls in one transaction; one of which the database refuses a value, alone."""
        texts = []
        outcomes: list[Outcome] = []
        for delivery in deliveries:
            read = await self._read(delivery)
            if isinstance(read, NewText):
                texts.append(read)
                outcomes.append(Delivered())
            else:
                outcomes.append(read)
        try:
            queued = await self._tables().enqueue(texts)
        except PartRefused as error:
            if len(deliveries) == 1:
                return [Refused(str(error))]
            return [await self.deliver(delivery) for delivery in deliveries]
        except StoreRefused as error:
            return [Refused(str(error), Scope.DESTINATION)] * len(deliveries)
        except StoreError as error:
            return [RetryLater(str(error), Scope.DESTINATION)] * len(deliveries)
        if queued:
            self._queued()
        return outcomes

    async def close(self) -> None:
        """Nothing: the store is closed by its own uploader."""

    async def _read(self, delivery: Delivery) -> NewText | Refused | RetryLater:
        """The core has nearly always all that is needed; only the transcript of hours lies in the detail."""
        record = delivery.record
        if delivery.form not in FORMS:
            return Refused(f"a pipeline takes no {delivery.form}")
        text = CallText()
        forms = (Form.CORE, Form.WHOLE) if Fragment.REST in record.fragments else (delivery.form,)
        try:
            for form in forms:
                if not text.turns:
                    text = (await self._text(structs.replace(delivery, form=form))).merged(text)
        except BadLocation as error:
            return Refused(str(error))
        except OSError as error:
            return RetryLater(f"cannot keep a call log in a temporary file: {error.strerror}")
        return NewText(key_text(record.tenant or ""), key_text(record.call_id), record.accepted_at, text)

    async def _text(self, delivery: Delivery) -> CallText:
        """Read from a buffer that spills to a file: a call log may be hundreds of megabytes."""
        copy = SpillingBuffer(self._scratch)
        try:
            for piece in render(delivery):
                if isinstance(piece, bytes):
                    copy.write(piece)
                    continue
                async for frame in self._payloads.frames(delivery.record, piece):
                    await asyncio.to_thread(_copy, frame, copy)
                    async for _ in paced(frame, self._bandwidth.pace(delivery.lane)):
                        pass  # it is read once the last byte of it may
            return await asyncio.to_thread(_read, copy, delivery.record.event)
        finally:
            copy.close()


def _copy(frame: bytes, copy: SpillingBuffer) -> None:
    copy.write(decode(frame))


def _read(copy: SpillingBuffer, event: str) -> CallText:
    """What is read of the view is copied, so that nothing holds on to it."""
    view = copy.view()
    try:
        return read_text(view, event)
    finally:
        view.release()

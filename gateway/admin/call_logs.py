"""Reads a call log back, for people: from the spool while its payload is there, else from the store."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from gateway.admin.view import GatewayView
from gateway.calllog.story import Story, story_of
from gateway.operations.transfer import plain
from spool.errors import CorruptPayload, SpoolError
from spool.payload.frames import decode
from spool.records import Delivery, Form, Lane, Record
from spool.stats import TracedRecord
from uploaders.document.render import BadLocation
from uploaders.stores.parts import PartKind
from uploaders.stores.store import StoredCall

MOST_BYTES = 32 << 20
"""A larger call log is not taken apart for a page: it can be downloaded."""


class CallLogs:
    """Reads call logs of one gateway; one at a time is taken apart, so that memory stays bounded."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway
        self._turn = asyncio.Semaphore(1)

    async def pieces(
        self, project: str, call_id: str, records: Sequence[TracedRecord], stored: StoredCall | None
    ) -> AsyncIterator[bytes]:
        """The call log as JSON, in pieces; none where it is no longer here. Raises `CorruptPayload`, `StoreError`."""
        record = readable(records)
        admin = self._gateway.delivery_admin
        if record is not None and admin is not None:
            async for piece in plain(_whole(record), admin.payloads):
                yield piece
        elif stored is not None:
            for document in await self._of_store(project, call_id, stored, details=False):
                yield document

    async def story(
        self, project: str, call_id: str, records: Sequence[TracedRecord], stored: StoredCall | None
    ) -> tuple[Story | None, str]:
        """The story of a call, and why there is none. Raises `StoreError`."""
        record = readable(records)
        if record is not None and record.raw_bytes > MOST_BYTES:
            return None, "It is too large to be taken apart here: download it."
        async with self._turn:
            try:
                if stored is not None:
                    documents = await self._of_store(project, call_id, stored, details=True)
                else:
                    documents = [b"".join([piece async for piece in self.pieces(project, call_id, records, stored)])]
            except (CorruptPayload, BadLocation) as error:
                return None, f"Its payload cannot be read: {error}. Check the disk with `callspool fsck`."
            except SpoolError as error:
                return None, f"The spool cannot be read at the moment: {error}."
            story = await asyncio.to_thread(story_of, [each for each in documents if each])
        if story is None:
            return None, _gone(records)
        return story, ""

    async def _of_store(self, project: str, call_id: str, stored: StoredCall, *, details: bool) -> list[bytes]:
        """The documents that the call shows, the end first: with its detail, as far as that is small enough."""
        kinds = (PartKind.CALL, PartKind.END, PartKind.START)
        shown = [part for kind in kinds for part in stored.parts if part.shown and part.kind is kind]
        documents = [part.document for part in shown]
        store, read = self._gateway.call_store, bytearray()
        if not details or store is None or not stored.summary.has_detail:
            return documents[:1] if not details else documents
        async for frame in store.detail(project, call_id):
            read += await asyncio.to_thread(decode, frame)
            if len(read) > MOST_BYTES:
                return documents
        return [*documents, bytes(read)]


def readable(records: Sequence[TracedRecord]) -> Record | None:
    """The newest record whose payload is here: the end of the call before anything else."""
    kept = [each for each in records if each.settled_at is None and each.record.fragments and not each.record.damaged]
    ended = [each for each in kept if each.record.event == "call_ended"]
    return (ended or kept)[-1].record if kept else None


def _whole(record: Record) -> Delivery:
    return Delivery(record, "", Form.WHOLE, Lane.DETAIL, 0, 0, None)


def _gone(records: Sequence[TracedRecord]) -> str:
    """Why what was said cannot be shown, and where it is."""
    places = [one.location for each in records for one in each.deliveries if one.location]
    if places:
        return f"It was delivered and is not kept here. The detail is at `{places[-1]}`."
    if records:
        return "It was delivered and is not kept here: ask its destination, or a receiver with a store."
    return "Nothing of what was said is in the store."

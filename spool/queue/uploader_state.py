"""What uploaders keep through restarts: the progress of multipart uploads, and circuit breakers that are open.

Everything is read through the writer as well, so that what is read is what was written last. The progress of a delivery
that ends as delivered is deleted by a trigger of the schema. That of a delivery which ended otherwise stays until its
upload was aborted at the server and forgotten here.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from spool.db import sql
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.records import BreakerSnapshot, DeliveryKey, DestinationIds, Form, PartProgress, UploadProgress

ABANDONED_AT_ONCE = 100

Identity = tuple[int, int, Form]
"""A delivery in the database: record, destination, form."""


class UploaderState:
    """For the event loop (uploaders.base.UploaderState). What was written is durable when a method returns."""

    def __init__(self, writer: Writer, destinations: DestinationIds) -> None:
        self._writer = writer
        self._destinations = destinations

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """How far the multipart upload of a delivery has come; None when it has none."""
        return await self._writer.submit(partial(_read_progress, key=key, identity=self._identity(key)))

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Remember an upload that was begun, without parts, in place of an earlier one of this delivery."""
        identity = self._identity(progress.delivery)
        await self._writer.submit(partial(_begin_upload, identity=identity, progress=progress))

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Remember parts as they are now; each replaces what was known of its number."""
        await self._writer.submit(partial(_write_parts, identity=self._identity(key), parts=parts))

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the upload of a delivery; without effect when there is none."""
        await self._writer.submit(partial(_forget_upload, identity=self._identity(key)))

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Up to `ABANDONED_AT_ONCE` uploads, without their parts, whose deliveries ended without being delivered."""
        destination_id = self._destinations.ids[destination]
        return await self._writer.submit(
            partial(_abandoned_uploads, destination=destination, destination_id=destination_id)
        )

    async def read_breaker(self, destination: str) -> BreakerSnapshot | None:
        """The breaker as it was kept last; None for a destination whose breaker is closed."""
        return await self._writer.submit(partial(_read_breaker, destination_id=self._destinations.ids[destination]))

    async def keep_breaker(self, destination: str, breaker: BreakerSnapshot | None) -> None:
        """Remember that it is open, or closed (None)."""
        destination_id = self._destinations.ids[destination]
        await self._writer.submit(partial(_keep_breaker, destination_id=destination_id, breaker=breaker))

    def _identity(self, key: DeliveryKey) -> Identity:
        return key.record_id, self._destinations.ids[key.destination], key.form


def _read_progress(transaction: Transaction, key: DeliveryKey, identity: Identity) -> UploadProgress | None:
    row = transaction.execute(sql.READ_MULTIPART, identity).fetchone()
    if row is None:
        return None
    parts = transaction.execute(sql.READ_PARTS, identity).fetchall()
    bucket, object_key, upload_id, part_bytes = row
    known = {number: PartProgress(size, md5, etag) for number, size, md5, etag in parts}
    return UploadProgress(key, bucket, object_key, upload_id, part_bytes, known)


def _begin_upload(transaction: Transaction, identity: Identity, progress: UploadProgress) -> None:
    _forget_upload(transaction, identity)
    one = progress
    transaction.execute(sql.ADD_MULTIPART, (*identity, one.bucket, one.object_key, one.upload_id, one.part_bytes))


def _write_parts(transaction: Transaction, identity: Identity, parts: Mapping[int, PartProgress]) -> None:
    for number, part in parts.items():
        transaction.execute(sql.WRITE_PART, (*identity, number, part.size, part.md5, part.etag))


def _forget_upload(transaction: Transaction, identity: Sequence[object]) -> None:
    transaction.execute(sql.DELETE_PARTS, identity)
    transaction.execute(sql.DELETE_MULTIPART, identity)


def _abandoned_uploads(transaction: Transaction, destination: str, destination_id: int) -> tuple[UploadProgress, ...]:
    rows = transaction.execute(sql.ABANDONED_MULTIPARTS, (destination_id, ABANDONED_AT_ONCE)).fetchall()
    return tuple(
        UploadProgress(DeliveryKey(record_id, destination, Form(form)), *upload) for record_id, form, *upload in rows
    )


def _read_breaker(transaction: Transaction, destination_id: int) -> BreakerSnapshot | None:
    row = transaction.execute(sql.READ_BREAKER, (destination_id,)).fetchone()
    return None if row is None else BreakerSnapshot(*row)


def _keep_breaker(transaction: Transaction, destination_id: int, breaker: BreakerSnapshot | None) -> None:
    if breaker is None:
        transaction.execute(sql.FORGET_BREAKER, (destination_id,))
        return
    one = breaker
    values = (destination_id, one.cause, one.reason, one.since, one.retry_at, one.probes)
    transaction.execute(sql.KEEP_BREAKER, values)

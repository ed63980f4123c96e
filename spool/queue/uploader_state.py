"""The progress of multipart uploads, as uploaders ask for it (uploaders.base.Ledger)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spool.db import sql
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.queue.settle import Names
from spool.records import DeliveryKey, Form, OpenBreaker, PartProgress, UploadProgress


class MultipartLedger:
    """Reads and writes progress through the writer, so that what is read is what was written last."""

    def __init__(self, writer: Writer, names: Names) -> None:
        self._writer = writer
        self._names = names

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """How far the multipart upload of a delivery has come; None when it has none."""
        return await self._writer.submit(ReadProgress(key, self._names.ids[key.destination]))

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Remember a multipart upload that was begun, without parts; durable when this returns."""
        destination_id = self._names.ids[progress.delivery.destination]
        await self._writer.submit(BeginProgress(progress, destination_id))

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Remember parts of an upload as they are now; durable when this returns."""
        await self._writer.submit(WriteParts(key, self._names.ids[key.destination], parts))

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the multipart upload of a delivery."""
        await self._writer.submit(ForgetProgress(key, self._names.ids[key.destination]))

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Some multipart uploads whose deliveries ended without being delivered: they are to be aborted."""
        return await self._writer.submit(FindAbandoned(destination, self._names.ids[destination]))


# The operations that keep the progress of multipart uploads: read it, write it, find what was abandoned.
#
# A delivery that ends as delivered takes its progress along (a trigger of the schema). That of one that ended otherwise
# stays until the upload is aborted at the server and forgotten here.

ABANDONED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """The progress of one delivery's upload; None when it has none."""

    key: DeliveryKey
    destination_id: int

    def __call__(self, transaction: Transaction) -> UploadProgress | None:
        """With all its parts."""
        identity = (self.key.record_id, self.destination_id, self.key.form)
        row = transaction.execute(sql.READ_MULTIPART, identity).fetchone()
        if row is None:
            return None
        parts = transaction.execute(sql.READ_PARTS, identity).fetchall()
        bucket, object_key, upload_id, part_bytes = row
        known = {number: PartProgress(size, md5, etag) for number, size, md5, etag in parts}
        return UploadProgress(self.key, bucket, object_key, upload_id, part_bytes, known)


@dataclass(frozen=True, slots=True)
class BeginProgress:
    """Remember a new upload; a delivery has one at a time, so an older one is forgotten."""

    progress: UploadProgress
    destination_id: int

    def __call__(self, transaction: Transaction) -> None:
        """Without parts."""
        one = self.progress
        identity = (one.delivery.record_id, self.destination_id, one.delivery.form)
        _forget(transaction, identity)
        transaction.execute(sql.ADD_MULTIPART, (*identity, one.bucket, one.object_key, one.upload_id, one.part_bytes))


@dataclass(frozen=True, slots=True)
class WriteParts:
    """Remember parts as they are now."""

    key: DeliveryKey
    destination_id: int
    parts: Mapping[int, PartProgress]

    def __call__(self, transaction: Transaction) -> None:
        """Each replaces what was known of its number."""
        for number, part in self.parts.items():
            transaction.execute(
                sql.WRITE_PART,
                (self.key.record_id, self.destination_id, self.key.form, number, part.size, part.md5, part.etag),
            )


@dataclass(frozen=True, slots=True)
class ForgetProgress:
    """Forget a delivery's upload."""

    key: DeliveryKey
    destination_id: int

    def __call__(self, transaction: Transaction) -> None:
        """With its parts; without effect when there is none."""
        _forget(transaction, (self.key.record_id, self.destination_id, self.key.form))


@dataclass(frozen=True, slots=True)
class FindAbandoned:
    """The uploads whose deliveries ended without being delivered, at most `ABANDONED_AT_ONCE`; without their parts."""

    destination: str
    destination_id: int

    def __call__(self, transaction: Transaction) -> tuple[UploadProgress, ...]:
        """The oldest records first."""
        rows = transaction.execute(sql.ABANDONED_MULTIPARTS, (self.destination_id, ABANDONED_AT_ONCE)).fetchall()
        return tuple(
            UploadProgress(DeliveryKey(record_id, self.destination, Form(form)), *upload)
            for record_id, form, *upload in rows
        )


def _forget(transaction: Transaction, identity: Sequence[object]) -> None:
    transaction.execute(sql.DELETE_PARTS, identity)
    transaction.execute(sql.DELETE_MULTIPART, identity)


# Open circuit breakers, kept through restarts: one row for each destination that takes no deliveries.


class BreakerBook:
    """What is known of open breakers (uploaders.base.BreakerMemory)."""

    def __init__(self, writer: Writer, destination_ids: Mapping[str, int]) -> None:
        self._writer = writer
        self._ids = destination_ids

    async def read(self, destination: str) -> OpenBreaker | None:
        """What was kept last; None for a destination whose breaker is closed."""
        return await self._writer.submit(_Read(self._ids[destination]))

    async def keep(self, destination: str, breaker: OpenBreaker | None) -> None:
        """Remember it, or that it is closed; durable when this returns."""
        await self._writer.submit(_Keep(self._ids[destination], breaker))


@dataclass(frozen=True, slots=True)
class _Read:
    """Reads through the writer, so that what is read is what was written last."""

    destination_id: int

    def __call__(self, transaction: Transaction) -> OpenBreaker | None:
        """The row, if there is one."""
        row = transaction.execute(sql.READ_BREAKER, (self.destination_id,)).fetchone()
        return None if row is None else OpenBreaker(*row)


@dataclass(frozen=True, slots=True)
class _Keep:
    """Writes the row of a destination, or removes it."""

    destination_id: int
    breaker: OpenBreaker | None

    def __call__(self, transaction: Transaction) -> None:
        """One statement."""
        one = self.breaker
        if one is None:
            transaction.execute(sql.FORGET_BREAKER, (self.destination_id,))
        else:
            values = (self.destination_id, one.cause, one.reason, one.since, one.retry_at, one.probes)
            transaction.execute(sql.KEEP_BREAKER, values)

"""The operations that keep the progress of multipart uploads: read it, write it, find what was abandoned.

A delivery that ends as delivered takes its progress along (a trigger of the schema). That of one that ended otherwise
stays until the upload is aborted at the server and forgotten here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spool import statements
from spool.progress import PartProgress, UploadProgress
from spool.records import DeliveryKey, Form
from spool.transaction import Transaction

ABANDONED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """The progress of one delivery's upload; None when it has none."""

    key: DeliveryKey
    destination_id: int

    def __call__(self, transaction: Transaction) -> UploadProgress | None:
        """With all its parts."""
        identity = (self.key.record_id, self.destination_id, self.key.form)
        row = transaction.execute(statements.READ_MULTIPART, identity).fetchone()
        if row is None:
            return None
        parts = transaction.execute(statements.READ_PARTS, identity).fetchall()
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
        transaction.execute(
            statements.ADD_MULTIPART, (*identity, one.bucket, one.object_key, one.upload_id, one.part_bytes)
        )


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
                statements.WRITE_PART,
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
        rows = transaction.execute(statements.ABANDONED_MULTIPARTS, (self.destination_id, ABANDONED_AT_ONCE)).fetchall()
        return tuple(
            UploadProgress(DeliveryKey(record_id, self.destination, Form(form)), *upload)
            for record_id, form, *upload in rows
        )


def _forget(transaction: Transaction, identity: Sequence[object]) -> None:
    transaction.execute(statements.DELETE_PARTS, identity)
    transaction.execute(statements.DELETE_MULTIPART, identity)

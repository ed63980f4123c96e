"""What an uploader in parts asks of the spool: to remember how far it has come."""

from collections.abc import Mapping
from typing import Protocol

from spool.progress import PartProgress, UploadProgress
from spool.records import DeliveryKey


class Ledger(Protocol):
    """Keeps the progress of multipart uploads. What was written is durable when a method returns.

    The progress of a delivery disappears when that is settled as delivered. Every method raises `SpoolError`.
    """

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """How far the upload of a delivery has come; None when it has none."""
        ...

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Remember an upload that was begun, in place of an earlier one of this delivery."""
        ...

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Remember parts as they are now: before they are sent, and with their ETag after."""
        ...

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the upload of a delivery."""
        ...

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Some uploads, without their parts, whose deliveries ended without being delivered."""
        ...


__all__ = ["Ledger", "PartProgress", "UploadProgress"]

"""The progress of multipart uploads, as uploaders ask for it (uploaders.s3.ledger.Ledger)."""

from collections.abc import Mapping

from spool import multipart
from spool.progress import PartProgress, UploadProgress
from spool.records import DeliveryKey
from spool.settling import Names
from spool.writer import Writer


class MultipartLedger:
    """Reads and writes progress through the writer, so that what is read is what was written last."""

    def __init__(self, writer: Writer, names: Names) -> None:
        self._writer = writer
        self._names = names

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """How far the multipart upload of a delivery has come; None when it has none."""
        return await self._writer.submit(multipart.ReadProgress(key, self._names.ids[key.destination]))

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Remember a multipart upload that was begun, without parts; durable when this returns."""
        destination_id = self._names.ids[progress.delivery.destination]
        await self._writer.submit(multipart.BeginProgress(progress, destination_id))

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Remember parts of an upload as they are now; durable when this returns."""
        await self._writer.submit(multipart.WriteParts(key, self._names.ids[key.destination], parts))

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the multipart upload of a delivery."""
        await self._writer.submit(multipart.ForgetProgress(key, self._names.ids[key.destination]))

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Some multipart uploads whose deliveries ended without being delivered: they are to be aborted."""
        return await self._writer.submit(multipart.FindAbandoned(destination, self._names.ids[destination]))

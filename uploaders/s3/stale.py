"""Aborts uploads in parts that nobody will complete: their parts take room at the server that is paid for.

Three kinds: of a delivery that ended without being delivered; of one whose key or bucket has changed; and one that
the server began and whose id was never written down, because the gateway was killed in between. What is missed here
is left to the bucket's lifecycle rule.
"""

from uploaders.s3.bucket import Bucket
from uploaders.s3.errors import NoSuchUpload, S3Failure
from uploaders.s3.ledger import Ledger, UploadProgress
from uploaders.s3.observer import S3Observer
from uploaders.s3.publishing import Target
from uploaders.uploader import RetryLater


class StaleUploads:
    """Works on one bucket, and on others where the ledger names them."""

    def __init__(self, bucket: Bucket, ledger: Ledger, observer: S3Observer) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self._observer = observer

    async def abort(self, progress: UploadProgress) -> None:
        """Abort one and forget it; one that the server does not know is as good. Raises `S3Failure`."""
        bucket = self._bucket.called(progress.bucket)
        await self._abort(bucket, progress.object_key, progress.upload_id, progress.delivery.destination)
        await self._ledger.forget_upload(progress.delivery)

    async def abort_unknown(self, target: Target) -> None:
        """Abort all uploads for this key, of which the ledger knows none.

        A server that refuses to list them does not keep the new one from being made. Raises `S3Failure` for others.
        """
        try:
            for upload_id in await self._bucket.uploads(target.key):
                await self._abort(self._bucket, target.key, upload_id, target.destination)
        except NoSuchUpload:
            return  # some servers answer a list of none like this (rclone does)
        except S3Failure as failure:
            if isinstance(failure.outcome, RetryLater):
                raise
            self._observer.uploads_aborted(target.destination, 0, failed=1)

    async def abort_abandoned(self, destination: str) -> None:
        """Abort those whose deliveries ended; what fails is counted, and tried again another time."""
        for progress in await self._ledger.abandoned_uploads(destination):
            try:
                await self.abort(progress)
            except S3Failure:
                self._observer.uploads_aborted(destination, 0, failed=1)

    async def _abort(self, bucket: Bucket, key: str, upload_id: str, destination: str) -> None:
        """Abort one at the server."""
        try:
            await bucket.abort(key, upload_id)
        except NoSuchUpload:
            return  # completed, aborted or expired there: nothing is left to abort, and nothing to count
        self._observer.uploads_aborted(destination, 1, failed=0)

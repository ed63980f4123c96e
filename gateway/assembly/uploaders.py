"""From the settings of each destination to its uploader."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from config.destinations import (
    Destination,
    FileDestination,
    HttpDestination,
    Large,
    PresignedDestination,
    S3Destination,
)
from gateway.admin.metrics import Metrics
from gateway.assembly import options
from gateway.assembly.s3_options import s3_options
from gateway.assembly.too_large import reduction, takes_uploads
from spool.records import Lane
from spool.store import Spool
from uploaders.file import FileUploader
from uploaders.http import HttpUploader
from uploaders.presigned import PresignedUploader
from uploaders.two_ways import TwoWaysUploader
from uploaders.uploader import Uploader


class UploaderFactory:
    """Makes uploaders that read from one spool. `scratch` is a directory for what one of them has to keep a moment."""

    def __init__(self, spool: Spool, scratch: Path, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._spool = spool
        self._scratch = scratch
        self._metrics = metrics
        self._clock = clock

    def make(self, destination: Destination) -> Uploader:
        """The uploader of this destination. Raises `OSError` where a certificate file cannot be read."""
        match destination:
            case HttpDestination():
                return self._http(destination)
            case PresignedDestination():
                posting = HttpUploader(options.posting_options(destination), self._spool, self._clock)
                return TwoWaysUploader(posting, self._uploading(destination), frozenset(Lane))
            case S3Destination():
                # A gateway without a bucket does without 11 MB of memory and an eighth of a second at its start.
                from uploaders.s3.uploader import S3Uploader  # noqa: PLC0415  # see above

                return S3Uploader(
                    s3_options(destination), self._spool, self._spool.ledger, self._clock, self._metrics.uploads
                )
            case FileDestination():
                return FileUploader(destination.path.absolute(), self._spool)

    def _http(self, destination: HttpDestination) -> Uploader:
        """It posts; where large call logs go through upload addresses, always or as a way on, it has both."""
        chosen = replace(options.http_options(destination), reduction=reduction(destination, self._scratch))
        posting = HttpUploader(chosen, self._spool, self._clock)
        if destination.large is not Large.PRESIGNED and not takes_uploads(destination):
            return posting
        return TwoWaysUploader(posting, self._uploading(destination), frozenset({Lane.DETAIL}))

    def _uploading(self, destination: HttpDestination | PresignedDestination) -> PresignedUploader:
        """Through the upload addresses of this endpoint."""
        chosen = options.presigned_options(destination)
        return PresignedUploader(chosen, self._spool, self._clock, self._metrics.uploads)

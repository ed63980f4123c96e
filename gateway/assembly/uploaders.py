"""From the settings of each destination to its uploader."""

import time
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
from gateway.courtesy import Courtesy
from spool.records import Lane
from spool.store import Spool
from uploaders.bandwidth import Bandwidth, RateLimit
from uploaders.file import FileUploader
from uploaders.http import HttpUploader
from uploaders.presigned import PresignedUploader
from uploaders.two_ways import TwoWaysUploader
from uploaders.uploader import Uploader


class UploaderFactory:
    """Makes uploaders that read from one spool. `scratch` is a directory for what one of them has to keep a moment."""

    def __init__(
        self, spool: Spool, scratch: Path, metrics: Metrics, clock: Callable[[], int], courtesy: Courtesy
    ) -> None:
        self._spool = spool
        self._scratch = scratch
        self._metrics = metrics
        self._clock = clock
        self._shared = (RateLimit(courtesy.rate),) if courtesy.limits_rate else ()

    def make(self, destination: Destination) -> Uploader:
        """The uploader of this destination. Raises `OSError` where a certificate file cannot be read."""
        bandwidth = self._bandwidth(destination)
        match destination:
            case HttpDestination():
                return self._http(destination, bandwidth)
            case PresignedDestination():
                posting = HttpUploader(options.posting_options(destination), self._spool, self._clock, bandwidth)
                return TwoWaysUploader(posting, self._uploading(destination, bandwidth), frozenset(Lane))
            case S3Destination():
                # A gateway without a bucket does without 11 MB of memory and an eighth of a second at its start.
                from uploaders.s3.uploader import S3Uploader  # noqa: PLC0415  # see above

                chosen, ledger, observer = s3_options(destination), self._spool.ledger, self._metrics.uploads
                return S3Uploader(chosen, self._spool, ledger, self._clock, observer, bandwidth)
            case FileDestination():
                return FileUploader(destination.path.absolute(), self._spool, bandwidth)

    def _bandwidth(self, destination: Destination) -> Bandwidth:
        """The limit of all destinations together, and its own."""
        rate = destination.max_bytes_per_second
        own = () if rate is None else (RateLimit(lambda: rate),)
        return Bandwidth((*self._shared, *own), time.monotonic)

    def _http(self, destination: HttpDestination, bandwidth: Bandwidth) -> Uploader:
        """It posts; where large call logs go through upload addresses, always or as a way on, it has both."""
        chosen = replace(
            options.http_options(destination), reduction=reduction(destination, self._scratch), scratch=self._scratch
        )
        posting = HttpUploader(chosen, self._spool, self._clock, bandwidth)
        if destination.large is not Large.PRESIGNED and not takes_uploads(destination):
            return posting
        return TwoWaysUploader(posting, self._uploading(destination, bandwidth), frozenset({Lane.DETAIL}))

    def _uploading(
        self, destination: HttpDestination | PresignedDestination, bandwidth: Bandwidth
    ) -> PresignedUploader:
        """Through the upload addresses of this endpoint."""
        chosen = options.presigned_options(destination)
        return PresignedUploader(chosen, self._spool, self._clock, self._metrics.uploads, bandwidth)

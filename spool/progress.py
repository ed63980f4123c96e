"""Plain data: how far a multipart upload has come, so that it goes on after a crash."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spool.records import DeliveryKey


@dataclass(frozen=True, slots=True)
class PartProgress:
    """A part that was sent, or was about to be. `md5` is that of its bytes; `etag` None: no answer was seen."""

    size: int
    md5: bytes
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """An upload in parts that was begun for a delivery, and has not been forgotten."""

    delivery: DeliveryKey
    bucket: str
    object_key: str
    upload_id: str
    part_bytes: int
    """How large each part but the last is; the plan must stay the same for the upload to go on."""
    parts: Mapping[int, PartProgress] = field(default_factory=dict)

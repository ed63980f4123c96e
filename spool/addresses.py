"""Upload addresses: what the spool remembers of those that were given to agents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Upload:
    """A one-time address that was given to an agent for a PUT. Only the hash of its key is kept."""

    s3_key: str
    call_id: str
    token: str | None
    expires_at: int
    record_uid: str | None
    """The record that came through it; None until then."""
    digest: bytes | None
    """The digest of that record."""

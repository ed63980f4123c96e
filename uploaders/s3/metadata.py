"""What an object's metadata says about the call log in it: pure, and ASCII, which is all that S3 takes.

Amazon S3 allows 2 KB of metadata in all (User Guide, "Working with object metadata"), so a long call id is cut.
"""

from importlib.metadata import version
from urllib.parse import quote

from uploaders.s3.bodies import ObjectBody

RECORD_UID = "callspool-record"
"""The record whose object it is; what tells an object of callspool's from any other."""
LONGEST_VALUE = 512
_VERSION = version("callspool")
"""Looked up once: that reads a file."""


def metadata_of(body: ObjectBody) -> dict[str, str]:
    """The call's id is percent-encoded (RFC 3986). The digest is that of the call log, without the agent's token."""
    record = body.delivery.record
    return {
        "callspool-version": _VERSION,
        RECORD_UID: record.uid,
        "form": body.form,
        "call-id": _ascii(record.call_id),
        "call-log-sha256": record.digest.hex(),
        "raw-bytes": str(body.raw_bytes),
    }


def _ascii(text: str) -> str:
    """Cut between characters, never within an escape."""
    encoded = ""
    for character in text:
        escaped = quote(character, safe="", errors="replace")
        if len(encoded) + len(escaped) > LONGEST_VALUE:
            break
        encoded += escaped
    return encoded

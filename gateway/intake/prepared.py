"""What an examined body asks for: to accept a call log, to accept a note of one, or to be given an upload address."""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.calllog.pieces import buffers
from gateway.intake.examining import About, CallLogFound
from gateway.routing import StoredAs
from spool.records import Buffer, Fragment


class Prepared(msgspec.Struct, frozen=True):
    """A call log that is ready to be accepted."""

    about: About
    digest: bytes
    fragments: Mapping[Fragment, Sequence[Buffer]]
    stored_as: StoredAs


class Reference(msgspec.Struct, frozen=True):
    """A note that the call log lies in a bucket, ready to be accepted like one."""

    prepared: Prepared
    s3_key: str | None


class AddressRequest(msgspec.Struct, frozen=True):
    """A request for an address to upload a call log to."""

    call_id: str


Opened = Prepared | Reference | AddressRequest


def prepared(found: CallLogFound, text: bytes | memoryview) -> Prepared | Reference:
    """The call log that was found, with its bytes as views of `text`."""
    fragments = {fragment: buffers(text, pieces) for fragment, pieces in found.pieces.items()}
    call_log = Prepared(found.about, found.digest, fragments, found.stored_as)
    return Reference(call_log, found.s3_key) if found.is_reference else call_log


def call_id_of(opened: Opened) -> str:
    """The call that it is about."""
    if isinstance(opened, AddressRequest):
        return opened.call_id
    return (opened if isinstance(opened, Prepared) else opened.prepared).about.call_id

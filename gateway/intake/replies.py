"""What an examined document is answered with: the same for a post, for an upload, and for a line of a batch."""

from typing import NamedTuple

import msgspec
from aiohttp import web

from gateway.intake import answers
from gateway.intake.accepting import Acceptor
from gateway.intake.prepared import AddressRequest, Opened, Prepared, Reference
from gateway.intake.refusals import Refusal
from gateway.intake.uploads import UploadDesk
from spool.records import Accepted

_ANSWERED = "answered"
YIELDS_TO = "x-callspool-yields-to"
"""The header by which a sender says which event of the call its call log must not replace."""


class Sender(msgspec.Struct, frozen=True):
    """What is known of a sender besides the document."""

    agents_key: str | None
    """The agent's own key, from the header."""
    request: web.BaseRequest
    prefix: str
    """What the sender wrote before the path of the route."""
    yields_to: str | None = None
    """The event of the call that its call log must not replace, as the sender says."""

    @property
    def base_url(self) -> str:
        """What stands before the path of a route, as the sender wrote it, or as the proxy between says it did."""
        headers = self.request.headers
        scheme = _first(headers.get("X-Forwarded-Proto")) or self.request.scheme
        host = _first(headers.get("X-Forwarded-Host")) or self.request.host
        return f"{scheme}://{host}{self.prefix}"


class Reply(NamedTuple):
    """An answer before it goes over the wire."""

    status: int
    body: bytes
    result: str
    """What the observer is told."""

    @property
    def acknowledges(self) -> bool:
        """Whether it says that a call log is durable."""
        return self.result != _ANSWERED


def answered(body: bytes) -> Reply:
    """The reply to a question."""
    return Reply(200, body, _ANSWERED)


class Replier:
    """Decides and does what an examined document asks for. For the event loop."""

    def __init__(self, acceptor: Acceptor, uploads: UploadDesk) -> None:
        self._acceptor = acceptor
        self._uploads = uploads

    async def reply(self, opened: Opened, sender: Sender) -> Reply:
        """Accept a call log, or give an upload address. Raises `Refusal` and `SpoolError`."""
        if isinstance(opened, Prepared):
            accepted = await self._acceptor.accept(opened, sender.agents_key, yields_to=sender.yields_to)
            return accepted_reply(opened, accepted, 202)
        if isinstance(opened, AddressRequest):
            return await self.give_address(opened.call_id, sender)
        return await self._reply_to_reference(opened, sender)

    async def give_address(self, call_id: str, sender: Sender) -> Reply:
        """An address that one call log can be PUT to."""
        given = await self._uploads.give(call_id, sender.agents_key)
        url = f"{sender.base_url}/uploads/{given.secret}"
        return answered(answers.upload_address(url, given.s3_key, given.s3_bucket))

    async def _reply_to_reference(self, reference: Reference, sender: Sender) -> Reply:
        """A reference to what was uploaded here tells nothing new; any other is for the endpoint to read."""
        upload = await self._uploads.find_by_s3_key(reference.s3_key)
        if upload is None:
            accepted = await self._acceptor.accept(reference.prepared, sender.agents_key)
            return accepted_reply(reference.prepared, accepted, 202)
        if upload.record_uid is None:
            raise Refusal(
                409,
                "not_uploaded",
                "The address that this s3_key belongs to was never used.",
                "PUT the call log to its upload_url first, or post the call log itself.",
            )
        return Reply(202, answers.referenced(reference.prepared.about.call_id, upload.record_uid), "duplicate")


def accepted_reply(prepared: Prepared, accepted: Accepted, status: int) -> Reply:
    """The answer to a call log that is durable."""
    result = "duplicate" if accepted.duplicate else "superseded" if accepted.superseded else "accepted"
    return Reply(status, answers.accepted(prepared.about.call_id, accepted), result)


def _first(header: str | None) -> str:
    """What the outermost of several proxies wrote."""
    return header.split(",")[0].strip() if header else ""

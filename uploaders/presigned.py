"""Delivers whole call logs through upload addresses that the endpoint gives: the SDK's own way for what is large.

    POST .../get-upload-url ─▶ {"upload_url", "s3_key", "s3_bucket"?} ─▶ PUT upload_url ─▶ delivered

The object's arrival starts its processing, which authenticates by the `token` in it; so the token is put back in, as
the last member. Each attempt asks for an address of its own and uses it at once or not at all. The body streams from
the spool with its length known beforehand, one frame in memory. A reference afterwards is a delivery of its own (a
notice after this one), planned only where it is configured; the location that it needs is reported.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from spool.records import Delivery, Form, Lane
from uploaders.answers import judge
from uploaders.bandwidth import UNLIMITED, Bandwidth
from uploaders.bodies import decompress
from uploaders.connections import ConnectionOptions, Connections
from uploaders.deadlines import Timeouts
from uploaders.forms import pieces_of, raw_bytes_of
from uploaders.last_member import encoded_member, with_last_member
from uploaders.network_errors import NETWORK_ERRORS, outcome_of
from uploaders.object_observer import ObjectObserver
from uploaders.sending import Pace
from uploaders.storage_answers import judge_upload
from uploaders.upload_address import BadAddress, UploadAddress, address_request_url, parse_address
from uploaders.uploader import Delivered, Outcome, PayloadReader, Refused, RetryLater, Scope

CONTENT_TYPE = "application/json"
"""Exactly so: the address was signed for it."""


@dataclass(frozen=True, slots=True)
class PresignedOptions:
    """How to reach one endpoint that gives upload addresses."""

    url: str
    """The endpoint; the address for addresses is made of it as the SDK does, unless that is set."""
    address_url: str | None = None
    """Where to ask for an upload address."""
    token: str | None = field(default=None, repr=False)
    """Sent as `x-pype-token` and put into the call log; None: each record's own token."""
    ca_file: Path | None = None
    """PEM certificates of authorities to trust besides the system's."""
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(total=15 * 60.0))
    """Those of one upload; asking for its address takes no longer."""

    @property
    def asked_url(self) -> str:
        """Where to ask. Raises `ValueError` when it is neither set nor can be made."""
        return self.address_url or address_request_url(self.url)


class PresignedUploader:
    """Delivers to one endpoint's storage. `clock` gives milliseconds since the Unix epoch."""

    def __init__(
        self,
        options: PresignedOptions,
        payloads: PayloadReader,
        clock: Callable[[], int],
        observer: ObjectObserver,
        bandwidth: Bandwidth = UNLIMITED,
    ) -> None:
        """Raises `ValueError` for a URL of which none for addresses can be made, `OSError` for a bad `ca_file`."""
        self._options = options
        self._asked_url = options.asked_url
        self._payloads = payloads
        self._clock = clock
        self._observer = observer
        self._bandwidth = bandwidth
        self._connections = Connections(ConnectionOptions(options.ca_file, options.timeouts))

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Ask for an address and use it. Errors of the spool pass through."""
        if delivery.form is not Form.WHOLE:
            return Refused(f"an upload address takes no {delivery.form}")
        token, lost = await self._token(delivery)
        if lost:
            return Refused("its own token is no longer stored: set a token for this destination, then requeue it")
        if token is not None and not token.isprintable():
            return Refused("the token has characters that no header may have", Scope.CREDENTIAL)
        try:
            return await self._upload(delivery, token)
        except NETWORK_ERRORS as error:
            return outcome_of(error)

    async def close(self) -> None:
        """Close the kept connections."""
        await self._connections.close()

    async def _token(self, delivery: Delivery) -> tuple[str | None, bool]:
        """The configured token or the record's own, and whether that is no longer stored."""
        token_id = delivery.record.token_id
        if self._options.token is not None or token_id is None:
            return self._options.token, False
        token = await self._payloads.token(token_id)
        return token, token is None

    async def _ask(self, delivery: Delivery, token: str | None) -> UploadAddress | RetryLater | Refused:
        """An address for this call log, or why there is none."""
        asked_at = self._clock()
        body = json.dumps({"call_id": delivery.record.call_id, "content_type": CONTENT_TYPE}).encode()
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": "callspool", "Accept-Encoding": "identity"}
        if token is not None:
            headers["x-pype-token"] = token
        answer = await self._connections.request("POST", self._asked_url, headers, body)
        if answer.status in {404, 405}:
            return Refused("the endpoint gives no upload addresses (get-upload-url is not there)", Scope.DESTINATION)
        judged = judge(answer, Form.WHOLE, sent_bytes=len(body), now=self._clock(), secrets=(token,) if token else ())
        if not isinstance(judged, Delivered):
            return judged
        try:
            return parse_address(answer.body, asked_at=asked_at, secure=self._asked_url.startswith("https:"))
        except BadAddress as error:
            return RetryLater(f"get-upload-url: {error}")

    async def _upload(self, delivery: Delivery, token: str | None) -> Outcome:
        """Ask, put, and tell of what arrived."""
        started = self._clock()
        address = await self._ask(delivery, token)
        if not isinstance(address, UploadAddress):
            return address
        if self._clock() >= address.valid_until:
            return RetryLater("the upload address had expired before it could be used")
        member = encoded_member("token", token) if token is not None else b""
        size = raw_bytes_of(delivery.record, pieces_of(delivery)) + len(member)
        plain = self._plain(delivery)
        document = with_last_member(plain, member) if member else plain
        outcome = await self._put(document, size, address, self._bandwidth.pace(delivery.lane))
        if isinstance(outcome, Delivered):
            seconds = (self._clock() - started) / 1000
            self._observer.object_delivered(delivery.destination, size, seconds, large=delivery.lane is Lane.DETAIL)
        return outcome

    async def _put(
        self, document: AsyncIterator[bytes], size: int, address: UploadAddress, pace: Pace | None
    ) -> Outcome:
        """One PUT with its length, so that nothing is sent in chunks: storage servers refuse these."""
        headers = {"Content-Type": CONTENT_TYPE, "Content-Length": str(size), "User-Agent": "callspool"}
        url = URL(address.url, encoded=True)
        answer = await self._connections.request("PUT", url, headers, document, pace=pace)
        return judge_upload(answer, address.location, now=self._clock())

    async def _plain(self, delivery: Delivery) -> AsyncIterator[bytes]:
        """The call log as JSON, a frame at a time."""
        for piece in pieces_of(delivery):
            if isinstance(piece, bytes):
                yield piece
                continue
            async for frame in self._payloads.frames(delivery.record, piece):
                yield await asyncio.to_thread(decompress, frame)

"""Delivers whole call logs through upload addresses that the endpoint gives: the SDK's own way for what is large.

    POST .../get-upload-url ─▶ {"upload_url", "s3_key", "s3_bucket"?} ─▶ PUT upload_url ─▶ delivered

The object's arrival starts its processing, which authenticates by the `token` in it; so the token is put back in, as
the last member. Each attempt asks for an address of its own and uses it at once or not at all. The body streams from
the spool with its length known beforehand, one frame in memory. A reference afterwards is a delivery of its own (a
notice after this one), planned only where it is configured; the location that it needs is reported.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
from yarl import URL

from spool.payload.frames import decode
from spool.records import Clock, Delivery, Form, Lane
from uploaders.base import Delivered, ObjectObserver, Outcome, PayloadReader, Refused, RetryLater, Scope, Uploader
from uploaders.document.render import encoded_member, raw_bytes_of, render, with_last_member
from uploaders.http.confirmation import Answer, Verdict, read, text_members, text_of
from uploaders.http.pool import ClientOptions, HttpClient, received
from uploaders.http.responses import NETWORK_ERRORS, judge, outcome_of, parse_retry_after
from uploaders.http.timeouts import Timeouts
from uploaders.http.uploader import via_of
from uploaders.rate_limit import UNLIMITED, Bandwidth, Pace
from uploaders.redact import excerpt
from uploaders.s3.error_codes import ErrorClass, classify
from uploaders.upload_hosts import HostNotAllowed, UploadHosts

# Upload addresses that an endpoint gives: pure, from its answer to what can be done with it and for how long.

LONGEST_VALID_SECONDS = 15 * 60
"""An address is not used for longer, whatever its own expiry is."""

_SEND_PATH = "/send-call-log"
_ADDRESS_PATH = "/get-upload-url"
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


class BadAddress(ValueError):
    """The endpoint's response holds no upload address that may be used."""


@dataclass(frozen=True, slots=True)
class UploadAddress:
    """Where to PUT a call log, once. `url` is a secret: who has it may upload."""

    url: str = field(repr=False)
    valid_until: int
    """Milliseconds since the Unix epoch; not to be used from then on."""
    location: str | None
    """The object as `s3://bucket/key`, where bucket and key are known."""


def address_request_url(endpoint: str) -> str:
    """Where an endpoint is asked for an address: its own URL with another last part, as the SDK makes it.

    Raises `ValueError` when the URL has no such part.
    """
    head, found, tail = endpoint.partition(_SEND_PATH)
    if not found:
        raise ValueError(f"the address for uploads cannot be made of a URL without {_SEND_PATH}: set it by itself")
    return f"{head}{_ADDRESS_PATH}{tail}"


def parse_address(body: str, *, asked_at: int, secure: bool) -> UploadAddress:
    """The address in the response to a request that was sent at `asked_at`. Raises `BadAddress`.

    Its time counts from the request, so that it is never used too late; `secure` demands https, because the call log
    goes there with the agent's token in it.
    """
    members = text_members(body)
    try:
        url = received(members["upload_url"])
    except KeyError as error:
        raise BadAddress("the response has no upload_url") from error
    except aiohttp.InvalidURL as error:
        raise BadAddress("the upload_url is not an HTTP address") from error
    if secure and url.scheme != "https":
        raise BadAddress("the upload_url is not https although the endpoint is")
    key = members.get("s3_key", "")
    bucket = members.get("s3_bucket") or _bucket_in(url.raw_host or "", url.raw_path, key)
    location = f"s3://{bucket}/{key}" if bucket and key else None
    return UploadAddress(members["upload_url"], asked_at + 1000 * _valid_seconds(url.raw_query_string), location)


def _valid_seconds(query: str) -> int:
    """The address's own expiry (`X-Amz-Expires`), where that is shorter."""
    response = parse_qs(query).get("X-Amz-Expires", [""])[0]
    return min(int(response), LONGEST_VALID_SECONDS) if _DIGITS.fullmatch(response) else LONGEST_VALID_SECONDS


def _bucket_in(host: str, path: str, key: str) -> str | None:
    """The bucket of an address: what stands before the key in its path, else the first label of its host."""
    named = unquote(path)
    if not key or not named.endswith(key):
        return None
    return named.removesuffix(key).strip("/") or host.partition(".")[0]


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

    upload_hosts: tuple[str, ...] = ()
    """Hosts and networks that may be uploaded to besides the endpoint's own site and known object stores."""
    via: str | None = None
    """As of `uploaders.http.uploader.HttpOptions`."""


class PresignedUploader:
    """Delivers to one endpoint's storage. `clock` gives milliseconds since the Unix epoch."""

    def __init__(
        self,
        options: PresignedOptions,
        payloads: PayloadReader,
        clock: Clock,
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
        own = (urlsplit(url).hostname or "" for url in (options.url, self._asked_url))
        self._hosts = UploadHosts(own, options.upload_hosts)
        self._client = HttpClient(ClientOptions(options.ca_file, options.timeouts))
        self._checked_client = HttpClient(ClientOptions(options.ca_file, options.timeouts, self._hosts.check_address))

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Ask for an address and use it. Errors of the spool pass through."""
        if delivery.form is not Form.WHOLE:
            return Refused(f"an upload address does not accept the form {delivery.form}")
        token, lost = await self._token(delivery)
        if lost:
            return Refused(
                "the record's own token is no longer stored: set a token for this destination, then replay it"
            )
        if token is not None and not token.isprintable():
            return Refused("the token contains characters that a header cannot carry", Scope.CREDENTIAL)
        try:
            return await self._upload(delivery, token)
        except NETWORK_ERRORS as error:
            return outcome_of(error)

    async def close(self) -> None:
        """Close the kept connections."""
        try:
            await self._client.close()
        finally:
            await self._checked_client.close()

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
        headers = {**self._marks(delivery), "Content-Type": CONTENT_TYPE, "Accept-Encoding": "identity"}
        if token is not None:
            headers["x-pype-token"] = token
        answer = await self._client.request("POST", self._asked_url, headers, body)
        if answer.status in {404, 405}:
            return Refused(
                "the endpoint does not provide upload addresses (there is no get-upload-url)", Scope.DESTINATION
            )
        judged = judge(answer, Form.WHOLE, sent_bytes=len(body), now=self._clock(), secrets=(token,) if token else ())
        if not isinstance(judged, Delivered):
            return judged
        try:
            return parse_address(text_of(answer), asked_at=asked_at, secure=self._asked_url.startswith("https:"))
        except BadAddress as error:
            return RetryLater(f"get-upload-url: {error}")

    async def _upload(self, delivery: Delivery, token: str | None) -> Outcome:
        """Request an address, PUT the call log there, and report the object."""
        started = time.monotonic()
        address = await self._ask(delivery, token)
        if not isinstance(address, UploadAddress):
            return address
        if self._clock() >= address.valid_until:
            return RetryLater("the upload address had expired before it could be used")
        member = encoded_member("token", token) if token is not None else b""
        size = raw_bytes_of(delivery.record, render(delivery)) + len(member)
        plain = self._plain(delivery)
        document = with_last_member(plain, member) if member else plain
        headers = {**self._marks(delivery), "Content-Type": CONTENT_TYPE, "Content-Length": str(size)}
        outcome = await self._put(document, headers, address, self._bandwidth.pace(delivery.lane))
        if isinstance(outcome, Delivered):
            seconds = time.monotonic() - started
            self._observer.object_delivered(delivery.destination, size, seconds, large=delivery.lane is Lane.DETAIL)
        return outcome

    async def _put(
        self, document: AsyncIterator[bytes], headers: dict[str, str], address: UploadAddress, pace: Pace | None
    ) -> Outcome:
        """One PUT with its length, so that nothing is sent in chunks: storage servers refuse these."""
        url = URL(address.url, encoded=True)
        try:
            client = self._client if self._hosts.is_trusted(url.raw_host or "") else self._checked_client
        except HostNotAllowed as error:
            return _not_allowed(error)
        try:
            answer = await client.request("PUT", url, headers, document, pace=pace)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, HostNotAllowed):
                return _not_allowed(error.os_error)
            raise
        return judge_upload(answer, address.location, now=self._clock())

    def _marks(self, delivery: Delivery) -> dict[str, str]:
        """Who sends it, and through whom it came: also to the address, which may be one of another gateway."""
        own = self._options.via
        return {"User-Agent": "callspool"} | ({} if own is None else {"Via": via_of(delivery.record, own)})

    async def _plain(self, delivery: Delivery) -> AsyncIterator[bytes]:
        """The call log as JSON, a frame at a time."""
        for piece in render(delivery):
            if isinstance(piece, bytes):
                yield piece
                continue
            async for frame in self._payloads.frames(delivery.record, piece):
                yield await asyncio.to_thread(decode, frame)


def _not_allowed(error: HostNotAllowed) -> RetryLater:
    """It waits for the endpoint to be repaired, or for the operator to list the host."""
    advice = "list the host in presigned.upload_hosts if that is right"
    return RetryLater(f"get-upload-url: the upload_url {error.strerror}: {advice}", Scope.DESTINATION)


# Routes each delivery to one of two uploaders of an endpoint: one posts, the other uploads wholes to pre-signed URLs.


class RoutingUploader:
    """Wholes of `uploaded_lanes` are uploaded; everything else is posted.

    Large wholes are in the detail lane. Notices are posted, and so are cores and details that were owed before the
    configuration was changed: their wholes would come twice.
    """

    def __init__(self, posting: Uploader, uploading: Uploader, uploaded_lanes: Set[Lane]) -> None:
        self._posting = posting
        self._uploading = uploading
        self._uploaded_lanes = uploaded_lanes

    async def deliver(self, delivery: Delivery) -> Outcome:
        """One attempt by the uploader that it is for."""
        is_uploaded = delivery.form is Form.WHOLE and delivery.lane in self._uploaded_lanes
        return await (self._uploading if is_uploaded else self._posting).deliver(delivery)

    async def close(self) -> None:
        """Close both, the second even if the first fails."""
        try:
            await self._posting.close()
        finally:
            await self._uploading.close()


# What a storage server's answer to a PUT at an upload address means: pure.
#
# The address was signed by the endpoint, so what is wrong with it is not for the operator of this gateway to fix, and a
# new address may be right: it is tried again. The codes mean the same as towards a bucket of one's own.

_CODE = re.compile(rb"<Code>([\w.]{1,64})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,300})</Message>")


def judge_upload(answer: Answer, location: str | None, *, now: int) -> Outcome:
    """Only the error's code and message are shown: the rest of such a document quotes the signed request."""
    if 200 <= answer.status < 300:
        reading = read(answer)
        is_error = _CODE.search(answer.body) is not None
        if reading.verdict is Verdict.CONFIRMED and not is_error:
            return Delivered(location)
        if reading.verdict is Verdict.WEB_PAGE and not is_error:
            return Refused(f"upload: HTTP {answer.status}: a web page confirms nothing", Scope.DESTINATION)
        text = excerpt(text_of(answer))
        return RetryLater(f"upload: HTTP {answer.status}: {text} ({reading.reason or 'the body reports a failure'})")
    code, message = _found(_CODE, answer.body), _found(_MESSAGE, answer.body)
    reason = f"upload: HTTP {answer.status} {code}: {excerpt(message)}".removesuffix(": ").rstrip()
    kind = classify("PutObject", code, answer.status)
    if kind is ErrorClass.TOO_LARGE:
        return Refused(reason, too_large=True)
    if kind is ErrorClass.UNACCEPTABLE and "expired" not in message.lower():
        return Refused(reason)
    scope = Scope.DESTINATION if kind is ErrorClass.BUSY else Scope.RECORD
    return RetryLater(reason, scope, parse_retry_after(answer.retry_after, now))


def _found(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    return found[1].decode(errors="replace") if found else ""

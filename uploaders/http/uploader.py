"""Delivers to an HTTP endpoint: wholes, cores (Phase 1), details (Phase 2, full or reduced) and notices, one POST each.

One attempt is one request: it is never redirected and never repeated here. Its body is made first, in a buffer of at
most `max_request_bytes`, so that it is sent with its length. Connections are kept and reused; proxies come from
HTTPS_PROXY, HTTP_PROXY and NO_PROXY as they were at the start.

Limits: one URL for everything, no chunked bodies, no cookies.
"""

from dataclasses import dataclass, field
from pathlib import Path

from spool.records import Clock, Delivery, Form, Record
from uploaders.base import Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.body import BodyRoom, TooLarge
from uploaders.document.encoding import EncodedBody, NotReducible, Reduction, encode, encode_text, reduced_document
from uploaders.document.options import Encoding
from uploaders.document.render import BadLocation
from uploaders.http.options import Rule
from uploaders.http.pool import ClientOptions, HttpClient
from uploaders.http.responses import NETWORK_ERRORS, TOO_LARGE_ADVICE, judge, outcome_of
from uploaders.http.timeouts import Timeouts
from uploaders.rate_limit import UNLIMITED, Bandwidth


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to reach one endpoint."""

    url: str
    token: str | None = field(default=None, repr=False)
    """Sent as `x-pype-token`; None: each record's own token."""
    encoding: Encoding = Encoding.AUTO
    max_request_bytes: int = 6_000_000
    """The endpoint takes 6 MB a request."""
    scratch: Path | None = None
    """Has room for bodies that are too large for memory; None: the system's directory for temporary files."""
    reduction: Reduction | None = None
    """How details are reduced, where they are."""
    ca_file: Path | None = None
    """PEM certificates of authorities to trust besides the system's."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    delivered_when: tuple[Rule, ...] = ()
    """What the body of a 2xx must say to confirm a delivery; empty: it must not report a failure in any dialect."""
    via: str | None = None
    """What this gateway is called in `Via` (RFC 9110), by which its own intake recognises what comes back to it."""


def via_of(record: Record, own: str) -> str:
    """`Via` of a delivery: the gateways that its record came through, and this one's own name."""
    return f"1.1 {own}" if record.via is None else f"{record.via}, 1.1 {own}"


class MissingToken(Exception):
    """A record's own token cannot be sent."""


class HttpUploader:
    """Delivers to one endpoint. `clock` gives milliseconds since the Unix epoch."""

    def __init__(
        self,
        options: HttpOptions,
        payloads: PayloadReader,
        clock: Clock,
        bandwidth: Bandwidth = UNLIMITED,
    ) -> None:
        """Raises `OSError` or `ssl.SSLError` when `ca_file` cannot be read."""
        self._options = options
        self._payloads = payloads
        self._clock = clock
        self._bandwidth = bandwidth
        self._room = BodyRoom(options.max_request_bytes, options.scratch)
        self._client = HttpClient(ClientOptions(options.ca_file, options.timeouts))

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Make one request and judge its answer. `CorruptPayload` passes through: no destination caused it."""
        try:
            token = await self._token(delivery)
            body = await self._body(delivery)
        except (MissingToken, NotReducible, BadLocation) as error:
            return Refused(str(error))
        except OSError as error:
            return RetryLater(
                f"cannot write the request body to a temporary file: {error.strerror or type(error).__name__}"
            )
        except TooLarge as error:
            return Refused(self._too_large_reason(error), too_large=True)
        if token is not None and not token.isprintable():
            return Refused("the token contains characters that a header cannot carry", Scope.CREDENTIAL)
        try:
            return await self._post(delivery, body, token)
        except NETWORK_ERRORS as error:
            return outcome_of(error)
        finally:
            await body.release()

    async def close(self) -> None:
        """Close the kept connections."""
        await self._client.close()

    async def _body(self, delivery: Delivery) -> EncodedBody:
        frames, encoding, room = self._payloads.frames, self._options.encoding, self._room
        if delivery.form is not Form.REDUCED:
            return await encode(delivery, frames, encoding, room)
        if self._options.reduction is None:
            raise NotReducible("this destination no longer reduces details: replay the full one instead")
        document = await reduced_document(delivery, frames, self._options.reduction)
        return await encode_text(document, encoding, room)

    async def _post(self, delivery: Delivery, body: EncodedBody, token: str | None) -> Outcome:
        sent_bytes, headers = body.size, _headers(delivery, body, token, self._options.via)
        pace = self._bandwidth.pace(delivery.lane)
        answer = await self._client.request("POST", self._options.url, headers, body.data, pace=pace)
        secrets = (token,) if token else ()
        return judge(
            answer,
            delivery.form,
            sent_bytes=sent_bytes,
            now=self._clock(),
            secrets=secrets,
            delivered_when=self._options.delivered_when,
        )

    async def _token(self, delivery: Delivery) -> str | None:
        """The configured token, or the record's own; None when the agent sent none. Raises `MissingToken`."""
        if self._options.token is not None:
            return self._options.token
        token_id = delivery.record.token_id
        if token_id is None:
            return None
        token = await self._payloads.token(token_id)
        if token is None:
            raise MissingToken(
                "the record's own token is no longer stored: set a token for this destination, then replay it"
            )
        return token

    def _too_large_reason(self, error: TooLarge) -> str:
        encoding = self._options.encoding
        return f"longer than max_request_bytes = {error.max_bytes} as {encoding}: raise that, or {TOO_LARGE_ADVICE}"


def _headers(delivery: Delivery, body: EncodedBody, token: str | None, via: str | None) -> dict[str, str]:
    """`Accept-Encoding: identity`, because only the beginning of an answer is read and shown."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": delivery.idempotency_key,
        "Accept-Encoding": "identity",
        "User-Agent": "callspool",
    }
    if body.content_encoding is not None:
        headers["Content-Encoding"] = body.content_encoding
    if token is not None:
        headers["x-pype-token"] = token
    headers |= delivery.record.trace_headers
    if via is not None:
        headers["Via"] = via_of(delivery.record, via)
    return headers

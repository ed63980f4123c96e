"""Responses, as the bytes that go over the wire.

A response is written in one call, without the header objects of `aiohttp.web.Response`: these took a quarter of the
time of a 2 KB post (12,700 posts/s with them, 16,600 without, same machine and handler).
"""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import HttpVersion11, web

from gateway.calllog.errors import CallLogError
from gateway.intake.memory import BudgetExhausted
from gateway.runbooks import RUNBOOK_OF
from spool.errors import NO_ROOM, NotStorable, SpoolError, SpoolFull
from spool.records import Accepted

_log = structlog.get_logger(__name__)

# Why a post is rejected: one exception that carries the whole response, and the translation of other errors into it.
#
# The status of each rejection is decided here and nowhere else. Nothing answers 500: an unexpected error is a 503,
# because the SDK keeps a call log after a 503 and drops it after a 500.


class Rejection(Exception):
    """The response to a request that is rejected.

    `code` is stable and for programs, `message` says what happened, `hint` what the sender can do. With
    `retry_after` (seconds) the same request may succeed later. `closes` ends the connection when the sender has
    read the answer, `abandons` as soon as it is written.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str,
        *,
        retry_after: int | None = None,
        allow: str | None = None,
        closes: bool = False,
        abandons: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        self.allow = allow
        self.closes = closes or abandons
        self.abandons = abandons


class ClientGone(Rejection):
    """The client closed or broke the connection before its request was complete."""

    def __init__(self, message: str) -> None:
        hint = "Send the call log again; nothing of it was kept."
        super().__init__(400, "client_gone", f"The body did not come in whole: {message}.", hint, abandons=True)


def bad_encoding(message: str, position: int) -> Rejection:
    """The bytes are not in the coding that Content-Encoding, or the envelope, names."""
    return Rejection(
        400,
        "bad_encoding",
        f"{message} (byte {position} of the encoded data, counted from 0).",
        "Send the complete body in the encoding that Content-Encoding names, or without one.",
    )


def too_large(limit: int) -> Rejection:
    """The post is above a limit that the operator set."""
    return Rejection(
        413,
        "too_large",
        f"The call log is larger than {limit} bytes, the limit of this gateway.",
        "Send a smaller call log, or have the operator raise intake.body_max or intake.decoded_max.",
        closes=True,
    )


def _larger_than_quota(full: SpoolFull) -> Rejection:
    """The call log would not fit into an empty spool: sending it again is of no use."""
    return Rejection(
        413,
        "larger_than_quota",
        f"The call log needs {full.stored_bytes + full.staged_bytes} bytes or more of the spool, whose quota allows "
        f"{full.allowed_bytes} for one.",
        "Send a smaller call log, or have the operator raise spool.max_bytes (CALLSPOOL_SPOOL_MAX_BYTES).",
        closes=True,
    )


def stalled(seconds: float) -> Rejection:
    """The client stopped sending, or sends so slowly that it would hold memory for hours."""
    return Rejection(
        408,
        "stalled",
        f"The body did not advance enough for {seconds:g} s.",
        "Send the call log again; nothing of it was kept.",
        abandons=True,
    )


def internal() -> Rejection:
    """An unexpected error; the log has its traceback."""
    return Rejection(
        503,
        "internal",
        "An unexpected error occurred; the gateway's log has the details.",
        "Keep the call log and send it again later.",
        retry_after=10,
    )


def stopping() -> Rejection:
    """The gateway is starting or stopping."""
    return Rejection(
        503,
        "stopping",
        "The gateway is starting or stopping and accepts no call logs at the moment.",
        "Keep the call log and send it again in a few seconds.",
        retry_after=2,
        closes=True,
    )


def translate(error: Exception) -> Rejection | None:
    """The rejection for an error of a lower layer; None for an unexpected one."""
    match error:
        case Rejection():
            return error
        case CallLogError():
            return Rejection(422 if error.unprocessable else 400, error.code, error.message, error.hint)
        case SpoolFull():
            if error.never_fits:
                return _larger_than_quota(error)
            return _full("disk_full" if error.limit_bytes is None else "spool_full", str(error))
        case OSError(errno=code) if code in NO_ROOM:
            return _full("disk_full", "The disk of the spool directory is full.")
        case _:
            return _unavailable(error)


def final_rejection(error: Exception, message: str, **where: object) -> Rejection:
    """The answer to a request that an error ended. An unexpected error is logged with `message`.

    The error's tracebacks are dropped: their frames hold the body, and a frame that refers to the error in turn is
    freed by the cyclic collector alone, which runs after many posts.
    """
    rejection = translate(error)
    if rejection is None:
        _log.error(message, **where, exc_info=error)
        rejection = internal()
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__context__
    return rejection


def in_place_of_507(error: Exception) -> Rejection | None:
    """The 503 for a full spool or disk, for senders that repeat after no 507; None for other errors."""
    full = translate(error)
    if full is None or full.status != HTTPStatus.INSUFFICIENT_STORAGE:
        return None
    return Rejection(503, full.code, full.message, full.hint, retry_after=full.retry_after)


def _unavailable(error: Exception) -> Rejection | None:
    if isinstance(error, NotStorable):
        return Rejection(422, "not_storable", str(error), "Correct the field that is named, then send it again.")
    if isinstance(error, SpoolError):
        hint = "Keep the call log and send it again later."
        return Rejection(503, "spool_unavailable", str(error), hint, retry_after=5)
    if isinstance(error, BudgetExhausted | MemoryError):
        return Rejection(
            503,
            "memory_budget",
            "The memory for call logs in flight is used up.",
            "Send it again in a moment; raise CALLSPOOL_MEMORY_BUDGET if this happens often.",
            retry_after=1,
        )
    return None


def _full(code: str, message: str) -> Rejection:
    return Rejection(
        507,
        code,
        message,
        "Keep the call log and send it again later; see /readyz and the backlog in /metrics.",
        retry_after=30,
    )


_encode = msgspec.json.Encoder().encode
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}


class JsonResponse(web.StreamResponse):
    """A complete response with a JSON body.

    It leaves out what `StreamResponse` prepares (headers, cookies, compression, chunks) and keeps only what the
    server asks of a response: `prepare`, `write_eof`, `keep_alive`, `status`.
    """

    def __init__(
        self, status: int, body: bytes, *, extra: bytes = b"", closes: bool = False, abandons: bool = False
    ) -> None:
        # super().__init__ would build the header map that this class is there to avoid.
        self._status = status
        self._json = body
        self._extra = extra
        self._closes = closes
        self._abandons = abandons

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the whole response. Raises `ConnectionError` when the client is gone."""
        self._protocol = request.protocol
        self._keep_alive = not self._closes and request.keep_alive and request.version >= HttpVersion11
        connection = b"" if self._keep_alive else b"Connection: close\r\n"
        # RFC 9110 wants the wall clock's Date in every answer, whatever clock the records are stamped with.
        head = b"%bContent-Type: application/json\r\nContent-Length: %d\r\nDate: %b\r\n%b%b\r\n" % (
            _STATUS_LINES[self._status],
            len(self._json),
            _http_date(int(time.time())),
            self._extra,
            connection,
        )
        await request.writer.write(head if request.method == "HEAD" else head + self._json)

    async def write_eof(self, _data: bytes = b"") -> None:
        """Everything is written already. Cuts the connection of a client that is given up."""
        if self._abandons:
            self._protocol.force_close()


class _Accepted(msgspec.Struct, kw_only=True):
    success: bool = True
    call_id: str
    record_id: str
    upload_method: str
    duplicate: bool
    superseded: bool | msgspec.UnsetType = msgspec.UNSET
    """True where it is recorded and sent to nobody; otherwise it is not there."""
    sha256: str
    raw_bytes: int
    stored_bytes: int
    phase_1_complete: bool = False
    """Always false: the phases follow the acceptance. The SDK reads the field."""
    phase_2_started: bool = False


class _Error(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    hint: str
    runbook: str | None = None
    """What its operator can do, by symptom."""


class _Rejected(msgspec.Struct, kw_only=True):
    success: bool = False
    error: _Error


class _Reference(msgspec.Struct, kw_only=True):
    success: bool = True
    call_id: str
    record_id: str
    duplicate: bool = True
    """The call log itself was accepted before, through the upload address."""


class _UploadAddress(msgspec.Struct, kw_only=True):
    success: bool = True
    upload_url: str
    s3_key: str
    s3_bucket: str


def accepted(call_id: str, record: Accepted) -> bytes:
    """The body for a call log that is durable."""
    return _encode(
        _Accepted(
            call_id=call_id,
            record_id=record.uid,
            upload_method="two_phase" if record.two_phase else "single",
            duplicate=record.duplicate,
            superseded=True if record.superseded else msgspec.UNSET,
            sha256=record.digest.hex(),
            raw_bytes=record.raw_bytes,
            stored_bytes=record.stored_bytes,
        )
    )


def rejected(rejection: Rejection) -> bytes:
    """The body for a request that was rejected."""
    return _encode(
        _Rejected(error=_Error(rejection.code, rejection.message, rejection.hint, RUNBOOK_OF.get(rejection.code)))
    )


def referenced(call_id: str, record_uid: str) -> bytes:
    """The body for a reference to a call log that was uploaded here."""
    return _encode(_Reference(call_id=call_id, record_id=record_uid))


def upload_address(url: str, s3_key: str, bucket: str) -> bytes:
    """The body for an upload address, with the names that the SDK reads."""
    return _encode(_UploadAddress(upload_url=url, s3_key=s3_key, s3_bucket=bucket))


def rejection_response(rejection: Rejection) -> JsonResponse:
    """The response to a request that was rejected."""
    extra = b""
    if rejection.retry_after is not None:
        extra += b"Retry-After: %d\r\n" % rejection.retry_after
    if rejection.allow is not None:
        extra += b"Allow: %b\r\n" % rejection.allow.encode("ascii")
    return JsonResponse(
        rejection.status, rejected(rejection), extra=extra, closes=rejection.closes, abandons=rejection.abandons
    )


@lru_cache(maxsize=2)
def _http_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")

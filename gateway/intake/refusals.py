"""Why a post is not taken: one exception that carries the whole answer, and the translation of others' errors into it.

The status of each refusal is decided here and nowhere else. Nothing answers 500: an error that nobody foresaw is
a 503, because the SDK keeps a call log that met a 503 and drops one that met a 500.
"""

import errno

from gateway.calllog.errors import CallLogError
from gateway.intake.budget import BudgetExhausted
from spool.errors import NotStorable, SpoolError, SpoolFull

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Refusal(Exception):
    """The answer to a request that is refused.

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


class ClientGone(Refusal):
    """The client closed or broke the connection before its request was complete: hardly anyone reads this answer."""

    def __init__(self, message: str) -> None:
        hint = "Send the call log again; nothing of it was kept."
        super().__init__(400, "client_gone", f"The body did not come in whole: {message}.", hint, abandons=True)


def bad_encoding(message: str, position: int) -> Refusal:
    """The bytes are not what their Content-Encoding, or their envelope, says they are."""
    return Refusal(
        400,
        "bad_encoding",
        f"{message} (byte {position} of the encoded data, counted from 0).",
        "Send the complete body in the encoding that Content-Encoding names, or without one.",
    )


def too_large(limit: int) -> Refusal:
    """A limit that the operator set on the size of a post was passed."""
    return Refusal(
        413,
        "too_large",
        f"The call log is larger than the {limit} bytes that this gateway is configured to take.",
        "Send a smaller call log, or have the operator raise intake.body_max or intake.decoded_max.",
        closes=True,
    )


def stalled(seconds: float) -> Refusal:
    """The client stopped sending, or sends so slowly that it would hold memory for hours."""
    return Refusal(
        408,
        "stalled",
        f"The body did not advance enough for {seconds:g} s.",
        "Send the call log again; nothing of it was kept.",
        abandons=True,
    )


def internal() -> Refusal:
    """Something happened that nobody foresaw; the log has its traceback."""
    return Refusal(
        503,
        "internal",
        "The gateway met an unexpected error with this request; its log has the details.",
        "Keep the call log and send it again later.",
        retry_after=10,
    )


def stopping() -> Refusal:
    """The gateway is about to end, or has not opened yet."""
    return Refusal(
        503,
        "stopping",
        "The gateway is starting or stopping and takes no call logs at the moment.",
        "Keep the call log and send it again in a few seconds.",
        retry_after=2,
        closes=True,
    )


def translate(error: Exception) -> Refusal | None:
    """The refusal that an error of the parts below amounts to; None for one that nobody foresaw."""
    match error:
        case Refusal():
            return error
        case CallLogError():
            return Refusal(422 if error.unprocessable else 400, error.code, error.message, error.hint)
        case SpoolFull(limit_bytes=None):
            return _full("disk_full", str(error))
        case SpoolFull():
            return _full("spool_full", str(error))
        case OSError(errno=code) if code in _NO_ROOM:
            return _full("disk_full", "The disk of the spool directory is full.")
        case _:
            return _unavailable(error)


def _unavailable(error: Exception) -> Refusal | None:
    if isinstance(error, NotStorable):
        return Refusal(422, "not_storable", str(error), "Correct what it names; sending it again as it is is no use.")
    if isinstance(error, SpoolError):
        hint = "Keep the call log and send it again later."
        return Refusal(503, "spool_unavailable", str(error), hint, retry_after=5)
    if isinstance(error, BudgetExhausted | MemoryError):
        return Refusal(
            503,
            "memory_budget",
            "All memory for call logs in flight is in use.",
            "Send it again in a moment; raise CALLSPOOL_MEMORY_BUDGET if this happens often.",
            retry_after=1,
        )
    return None


def _full(code: str, message: str) -> Refusal:
    return Refusal(
        507,
        code,
        message,
        "Keep the call log and send it again later; see /readyz and the backlog in /metrics.",
        retry_after=30,
    )

"""What a storage server's answer to a PUT at an upload address means: pure.

The address was signed by the endpoint, so what is wrong with it is not for the operator of this gateway to fix, and a
new address may be right: it is tried again. The codes mean the same as towards a bucket of one's own.
"""

import re

from uploaders.answers import Answer
from uploaders.reasons import excerpt
from uploaders.retry import parse_retry_after
from uploaders.s3.meanings import Meaning, meaning_of
from uploaders.uploader import Delivered, Outcome, Refused, RetryLater, Scope

_CODE = re.compile(rb"<Code>([\w.]{1,64})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,300})</Message>")


def judge_upload(answer: Answer, location: str | None, *, now: int) -> Outcome:
    """Only the error's code and message are told: the rest of such a document quotes the signed request."""
    if 200 <= answer.status < 300:
        return Delivered(location)
    code, message = _found(_CODE, answer.body), _found(_MESSAGE, answer.body)
    reason = f"upload: HTTP {answer.status} {code}: {excerpt(message)}".removesuffix(": ").rstrip()
    meaning = meaning_of("PutObject", code, answer.status)
    if meaning is Meaning.TOO_LARGE:
        return Refused(reason, too_large=True)
    if meaning is Meaning.UNACCEPTABLE and "expired" not in message.lower():
        return Refused(reason)
    scope = Scope.DESTINATION if meaning is Meaning.BUSY else Scope.RECORD
    return RetryLater(reason, scope, parse_retry_after(answer.retry_after, now))


def _found(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    return found[1].decode(errors="replace") if found else ""

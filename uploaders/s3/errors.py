"""Errors of a bucket, and the translation of botocore's errors into them.

| error                                                          | outcome                                        |
|----------------------------------------------------------------|------------------------------------------------|
| SlowDown and other throttling, 429, 503, no space, unreachable | the whole destination waits                    |
| other 5xx, time-outs, broken connections, damaged on the way   | this delivery is retried                       |
| no, expired or wrong credentials                               | the destination is paused; asked for anew then |
| access denied, no such bucket, another region, wrong clock     | the destination is paused, with what to fix    |
| EntityTooLarge, 413                                            | refused for its size alone                     |
| anything else that is about this object                        | refused: a dead letter                         |
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from uploaders.base import Refused, RetryLater, Scope
from uploaders.http.responses import NETWORK_ERRORS
from uploaders.http.responses import outcome_of as network_outcome
from uploaders.redact import excerpt
from uploaders.s3.error_codes import ADVICE, ErrorClass, classify, permission_for


class S3Failure(Exception):
    """A request to the bucket failed; `outcome` is what that means for the delivery, unless the caller handles it.

    `code` is the server's own word for it, where it answered.
    """

    def __init__(self, outcome: RetryLater | Refused, *, operation: str, code: str = "") -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome
        self.operation = operation
        self.code = code


class NoSuchUpload(S3Failure):
    """The server knows nothing of the multipart upload: completed, aborted, or expired."""


class NoSuchObject(S3Failure):
    """There is no object under the key."""


class OtherTenantsObject(S3Failure):
    """The object under the key is of a call of another tenant."""


class ObjectExists(S3Failure):
    """There is an object under the key, and it was not to be replaced."""


class NotSupported(S3Failure):
    """The server does not know what was asked of it."""


class Unacceptable(S3Failure):
    """The server rejects the request for a reason that it calls the object's."""


class BadCredentials(S3Failure):
    """There are no credentials, or the server does not accept them: they are to be looked up anew."""


class AccessDenied(S3Failure):
    """The credentials are good, and may not do this. `permission` names what is missing."""

    def __init__(self, outcome: RetryLater | Refused, *, operation: str, code: str = "") -> None:
        super().__init__(outcome, operation=operation, code=code)
        self.permission = permission_for(operation)


_FAILURES: dict[ErrorClass, type[S3Failure]] = {
    ErrorClass.NO_UPLOAD: NoSuchUpload,
    ErrorClass.NO_OBJECT: NoSuchObject,
    ErrorClass.EXISTS: ObjectExists,
    ErrorClass.NOT_SUPPORTED: NotSupported,
    ErrorClass.UNACCEPTABLE: Unacceptable,
    ErrorClass.CREDENTIALS: BadCredentials,
    ErrorClass.DENIED: AccessDenied,
}

_NO_CREDENTIALS = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.MetadataRetrievalError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.SSOError,
    botocore_errors.ProfileNotFound,
    botocore_errors.ConfigNotFound,
    botocore_errors.ConfigParseError,
    botocore_errors.InvalidConfigError,
    botocore_errors.UnknownCredentialError,
    botocore_errors.InfiniteLoopConfigError,
    botocore_errors.RefreshWithMFAUnsupportedError,
)

_ON_THE_WAY = (botocore_errors.ConnectionError, botocore_errors.HTTPClientError, *NETWORK_ERRORS)

TRANSLATED = (botocore_errors.BotoCoreError, botocore_errors.ClientError, ResponseParserError, *NETWORK_ERRORS)
"""What a request may raise because of the server, the way to it, or the credentials."""


@contextmanager
def translated(operation: str) -> Iterator[None]:
    """Raise this package's errors instead of those of the libraries from the block."""
    try:
        yield
    except TRANSLATED as error:
        raise translate(error, operation) from error


def translate(error: Exception, operation: str) -> S3Failure:
    """What a library's error means; `operation` is what was being done, as S3 calls it."""
    if isinstance(error, botocore_errors.ClientError):
        return _answered(error)
    if isinstance(error, _NO_CREDENTIALS):
        reason = f"{operation}: {type(error).__name__} ({ADVICE[ErrorClass.CREDENTIALS]})"
        return BadCredentials(Refused(reason, Scope.DESTINATION), operation=operation)
    if isinstance(error, _ON_THE_WAY):
        return S3Failure(_unanswered(error, operation), operation=operation)
    if isinstance(error, ResponseParserError):
        return S3Failure(RetryLater(f"{operation}: the response is not an S3 response"), operation=operation)
    reason = f"{operation}: {type(error).__name__}: {excerpt(str(error))}"
    return S3Failure(Refused(reason, Scope.DESTINATION), operation=operation)


def _answered(error: botocore_errors.ClientError) -> S3Failure:
    """From the server's code and status. HEAD has no body: its code is the status."""
    details = error.response.get("Error", {})
    code, operation = str(details.get("Code", "")), str(error.operation_name)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    kind = classify(operation, code, status)
    text = f"{operation}: {code or f'HTTP {status}'}: {excerpt(str(details.get('Message', '')))}".removesuffix(": ")
    advice = ADVICE.get(kind, "").format(permission=permission_for(operation))
    reason = f"{text} ({advice})" if advice else text
    return _FAILURES.get(kind, S3Failure)(_outcome(kind, reason), operation=operation, code=code)


def _outcome(kind: ErrorClass, reason: str) -> RetryLater | Refused:
    if kind is ErrorClass.BUSY:
        return RetryLater(reason, Scope.DESTINATION)
    if kind in {ErrorClass.CREDENTIALS, ErrorClass.DENIED, ErrorClass.SETTING, ErrorClass.NOT_SUPPORTED}:
        return Refused(reason, Scope.DESTINATION)
    if kind is ErrorClass.TOO_LARGE:
        return Refused(reason, too_large=True)
    if kind is ErrorClass.UNACCEPTABLE:
        return Refused(reason)
    return RetryLater(reason)


def _unanswered(error: Exception, operation: str) -> RetryLater:
    """Botocore wraps what aiohttp raised; that says more than its own kind does."""
    cause = error.kwargs.get("error") if isinstance(error, botocore_errors.BotoCoreError) else error
    if isinstance(cause, NETWORK_ERRORS):
        outcome = network_outcome(cause)
        return RetryLater(f"{operation}: {outcome.reason}", outcome.scope)
    return RetryLater(f"{operation}: {type(cause or error).__name__}", Scope.DESTINATION)

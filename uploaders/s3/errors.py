"""What goes wrong at a bucket: the errors of this package, and the one place that translates botocore's into them.

| what the server or the way to it says                         | outcome                                        |
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
from enum import Enum, auto
from types import MappingProxyType

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from uploaders.base import Outcome, Refused, RetryLater, Scope
from uploaders.http.errors import NETWORK_ERRORS
from uploaders.http.errors import outcome_of as network_outcome
from uploaders.redact import excerpt

# What the error codes of S3 and of servers like it mean, as tables (Amazon S3 API Reference, "Error responses").


class Meaning(Enum):
    """What an error is about."""

    BUSY = auto()
    """The server wants fewer requests, or has no room."""
    TRANSIENT = auto()
    """The same request may succeed at another time."""
    CREDENTIALS = auto()
    """There are none, or they are not accepted."""
    DENIED = auto()
    """What they may do does not include this."""
    SETTING = auto()
    """Bucket, region, key, storage class or clock are wrong: nothing can be delivered."""
    TOO_LARGE = auto()
    """The object is larger than the server takes."""
    UNACCEPTABLE = auto()
    """Something else about this one object."""
    NO_UPLOAD = auto()
    """The multipart upload is not known."""
    NO_OBJECT = auto()
    """There is no such object."""
    EXISTS = auto()
    """There is one, and it was not to be replaced."""
    NOT_SUPPORTED = auto()
    """The server does not know this request, or one of its headers."""


ADVICE = MappingProxyType(
    {
        Meaning.CREDENTIALS: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role; "
        "they are looked up again without a restart",
        Meaning.DENIED: "allow {permission}; a bucket or key policy may forbid it, too",
        Meaning.NOT_SUPPORTED: 'the server does not know it: try encryption = "none", no storage_class, '
        "checksums = false",
        Meaning.TOO_LARGE: "the server takes no object of this size",
    }
)

_CODES = MappingProxyType(
    {
        Meaning.BUSY: "SlowDown Throttling ThrottlingException ThrottledException RequestThrottled "
        "RequestThrottledException RequestLimitExceeded TooManyRequests TooManyRequestsException "
        "BandwidthLimitExceeded ServiceUnavailable Busy QuotaExceeded InsufficientStorage XMinioStorageFull",
        Meaning.TRANSIENT: "InternalError InternalFailure RequestTimeout OperationAborted ConditionalRequestConflict "
        "BadDigest XAmzContentSHA256Mismatch IncompleteBody InvalidPart InvalidPartOrder",
        Meaning.CREDENTIALS: "ExpiredToken ExpiredTokenException RequestExpired TokenRefreshRequired InvalidToken "
        "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch InvalidSecurity "
        "InvalidIdentityToken IDPCommunicationError NotSignedUp",
        Meaning.DENIED: "AccessDenied AccessDeniedException AccountProblem AllAccessDisabled KMS.AccessDeniedException",
        Meaning.SETTING: "NoSuchBucket InvalidBucketName PermanentRedirect TemporaryRedirect Redirect "
        "AuthorizationHeaderMalformed IllegalLocationConstraintException RequestTimeTooSkewed InvalidStorageClass "
        "InvalidEncryptionAlgorithmError InvalidBucketState KMS.NotFoundException KMS.DisabledException "
        "KMS.KMSInvalidStateException KMS.InvalidKeyUsageException KMS.InvalidStateException",
        Meaning.TOO_LARGE: "EntityTooLarge RequestEntityTooLarge MaxMessageLengthExceeded",
        Meaning.UNACCEPTABLE: "KeyTooLongError MetadataTooLarge EntityTooSmall",
        Meaning.NO_UPLOAD: "NoSuchUpload",
        Meaning.NO_OBJECT: "NoSuchKey",
        Meaning.EXISTS: "PreconditionFailed",
        Meaning.NOT_SUPPORTED: "NotImplemented MethodNotAllowed",
    }
)
_MEANINGS = {code: meaning for meaning, codes in _CODES.items() for code in codes.split()}

_STATUSES = MappingProxyType(
    {
        301: Meaning.SETTING, 302: Meaning.SETTING, 307: Meaning.SETTING, 308: Meaning.SETTING,
        401: Meaning.CREDENTIALS, 403: Meaning.DENIED, 404: Meaning.SETTING, 405: Meaning.NOT_SUPPORTED,
        408: Meaning.TRANSIENT, 409: Meaning.TRANSIENT, 412: Meaning.EXISTS, 413: Meaning.TOO_LARGE,
        425: Meaning.TRANSIENT, 429: Meaning.BUSY, 501: Meaning.NOT_SUPPORTED, 503: Meaning.BUSY, 507: Meaning.BUSY,
    }
)  # fmt: skip

_PERMISSIONS = MappingProxyType(
    {
        "HeadObject": "s3:GetObject and s3:ListBucket",
        "GetObject": "s3:GetObject",
        "AbortMultipartUpload": "s3:AbortMultipartUpload",
        "ListParts": "s3:ListMultipartUploadParts",
        "ListMultipartUploads": "s3:ListBucketMultipartUploads",
        "DeleteObject": "s3:DeleteObject",
        "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
        "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
        "GetBucketEncryption": "s3:GetEncryptionConfiguration",
        "PutBucketEncryption": "s3:PutEncryptionConfiguration",
        "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    }
)


def meaning_of(operation: str, code: str, status: int) -> Meaning:
    """What an answer with this error code and HTTP status means; unknown codes mean what their status says."""
    if operation.startswith("AssumeRole"):
        return Meaning.CREDENTIALS if status < 500 else Meaning.TRANSIENT
    if operation == "HeadObject" and status == 404:
        return Meaning.NO_OBJECT
    known = _MEANINGS.get(code) or _STATUSES.get(status)
    if known is not None:
        return known
    return Meaning.UNACCEPTABLE if 400 <= status < 500 else Meaning.TRANSIENT


def permission_for(operation: str) -> str:
    """What a policy must allow for this operation; every request that writes an object needs the same."""
    return _PERMISSIONS.get(operation, "s3:PutObject")


class S3Failure(Exception):
    """A request to the bucket came to nothing; `outcome` is what that means for the delivery, if nobody knows better.

    `code` is the server's own word for it, where it answered.
    """

    def __init__(self, outcome: RetryLater | Refused, *, operation: str, code: str = "") -> None:
        super().__init__(outcome.reason)
        self.outcome: Outcome = outcome
        self.operation = operation
        self.code = code


class NoSuchUpload(S3Failure):
    """The server knows nothing of the multipart upload: completed, aborted, or expired."""


class NoSuchObject(S3Failure):
    """There is no object under the key."""


class ObjectExists(S3Failure):
    """There is an object under the key, and it was not to be replaced."""


class NotSupported(S3Failure):
    """The server does not know what was asked of it."""


class BadCredentials(S3Failure):
    """There are no credentials, or the server does not accept them: they are to be looked up anew."""


class AccessDenied(S3Failure):
    """The credentials are good, and may not do this. `permission` names what is missing."""

    def __init__(self, outcome: RetryLater | Refused, *, operation: str, code: str = "") -> None:
        super().__init__(outcome, operation=operation, code=code)
        self.permission = permission_for(operation)


_FAILURES: dict[Meaning, type[S3Failure]] = {
    Meaning.NO_UPLOAD: NoSuchUpload,
    Meaning.NO_OBJECT: NoSuchObject,
    Meaning.EXISTS: ObjectExists,
    Meaning.NOT_SUPPORTED: NotSupported,
    Meaning.CREDENTIALS: BadCredentials,
    Meaning.DENIED: AccessDenied,
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
        reason = f"{operation}: {type(error).__name__} ({ADVICE[Meaning.CREDENTIALS]})"
        return BadCredentials(Refused(reason, Scope.DESTINATION), operation=operation)
    if isinstance(error, _ON_THE_WAY):
        return S3Failure(_unanswered(error, operation), operation=operation)
    if isinstance(error, ResponseParserError):
        return S3Failure(RetryLater(f"{operation}: the answer is not one of S3"), operation=operation)
    reason = f"{operation}: {type(error).__name__}: {excerpt(str(error))}"
    return S3Failure(Refused(reason, Scope.DESTINATION), operation=operation)


def _answered(error: botocore_errors.ClientError) -> S3Failure:
    """From the server's code and status. HEAD has no body: its code is the status."""
    told = error.response.get("Error", {})
    code, operation = str(told.get("Code", "")), str(error.operation_name)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    meaning = meaning_of(operation, code, status)
    text = f"{operation}: {code or f'HTTP {status}'}: {excerpt(str(told.get('Message', '')))}".removesuffix(": ")
    advice = ADVICE.get(meaning, "").format(permission=permission_for(operation))
    reason = f"{text} ({advice})" if advice else text
    return _FAILURES.get(meaning, S3Failure)(_outcome(meaning, reason), operation=operation, code=code)


def _outcome(meaning: Meaning, reason: str) -> RetryLater | Refused:
    if meaning is Meaning.BUSY:
        return RetryLater(reason, Scope.DESTINATION)
    if meaning in {Meaning.CREDENTIALS, Meaning.DENIED, Meaning.SETTING, Meaning.NOT_SUPPORTED}:
        return Refused(reason, Scope.DESTINATION)
    if meaning is Meaning.TOO_LARGE:
        return Refused(reason, too_large=True)
    if meaning is Meaning.UNACCEPTABLE:
        return Refused(reason)
    return RetryLater(reason)


def _unanswered(error: Exception, operation: str) -> RetryLater:
    """Botocore wraps what aiohttp raised; that says more than its own kind does."""
    cause = error.kwargs.get("error") if isinstance(error, botocore_errors.BotoCoreError) else error
    if isinstance(cause, NETWORK_ERRORS):
        outcome = network_outcome(cause)
        return RetryLater(f"{operation}: {outcome.reason}", outcome.scope)
    return RetryLater(f"{operation}: {type(cause or error).__name__}", Scope.DESTINATION)

"""What the error codes of S3 and of servers like it mean, as tables (Amazon S3 API Reference, "Error responses").

Pure, and without botocore: answers at an upload address are classified by the same tables.
"""

from enum import Enum, auto
from types import MappingProxyType


class ErrorClass(Enum):
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
        ErrorClass.CREDENTIALS: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role; "
        "they are looked up again without a restart",
        ErrorClass.DENIED: "allow {permission}; a bucket or key policy may forbid it, too",
        ErrorClass.NOT_SUPPORTED: 'the server does not support it: try encryption = "none", no storage_class, '
        "checksums = false, if_none_match = false",
        ErrorClass.TOO_LARGE: "the server does not accept an object of this size",
    }
)

_CODES = MappingProxyType(
    {
        ErrorClass.BUSY: "SlowDown Throttling ThrottlingException ThrottledException RequestThrottled "
        "RequestThrottledException RequestLimitExceeded TooManyRequests TooManyRequestsException "
        "BandwidthLimitExceeded ServiceUnavailable Busy QuotaExceeded InsufficientStorage XMinioStorageFull",
        ErrorClass.TRANSIENT: "InternalError InternalFailure RequestTimeout OperationAborted "
        "ConditionalRequestConflict BadDigest XAmzContentSHA256Mismatch IncompleteBody InvalidPart InvalidPartOrder",
        ErrorClass.CREDENTIALS: "ExpiredToken ExpiredTokenException RequestExpired TokenRefreshRequired InvalidToken "
        "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch InvalidSecurity "
        "InvalidIdentityToken IDPCommunicationError NotSignedUp",
        ErrorClass.DENIED: "AccessDenied AccessDeniedException AccountProblem AllAccessDisabled "
        "KMS.AccessDeniedException",
        ErrorClass.SETTING: "NoSuchBucket InvalidBucketName PermanentRedirect TemporaryRedirect Redirect "
        "AuthorizationHeaderMalformed IllegalLocationConstraintException RequestTimeTooSkewed InvalidStorageClass "
        "InvalidEncryptionAlgorithmError InvalidBucketState KMS.NotFoundException KMS.DisabledException "
        "KMS.KMSInvalidStateException KMS.InvalidKeyUsageException KMS.InvalidStateException",
        ErrorClass.TOO_LARGE: "EntityTooLarge RequestEntityTooLarge MaxMessageLengthExceeded",
        ErrorClass.UNACCEPTABLE: "KeyTooLongError MetadataTooLarge EntityTooSmall",
        ErrorClass.NO_UPLOAD: "NoSuchUpload",
        ErrorClass.NO_OBJECT: "NoSuchKey",
        ErrorClass.EXISTS: "PreconditionFailed",
        ErrorClass.NOT_SUPPORTED: "NotImplemented MethodNotAllowed",
    }
)
_ERROR_CLASSES = {code: kind for kind, codes in _CODES.items() for code in codes.split()}

_STATUSES = MappingProxyType(
    {
        301: ErrorClass.SETTING, 302: ErrorClass.SETTING, 307: ErrorClass.SETTING, 308: ErrorClass.SETTING,
        401: ErrorClass.CREDENTIALS, 403: ErrorClass.DENIED, 404: ErrorClass.SETTING, 405: ErrorClass.NOT_SUPPORTED,
        408: ErrorClass.TRANSIENT, 409: ErrorClass.TRANSIENT, 412: ErrorClass.EXISTS, 413: ErrorClass.TOO_LARGE,
        425: ErrorClass.TRANSIENT, 429: ErrorClass.BUSY, 501: ErrorClass.NOT_SUPPORTED,
        503: ErrorClass.BUSY, 507: ErrorClass.BUSY,
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


ABOUT_ONE_OBJECT = frozenset(["KeyTooLongError", "MetadataTooLarge", "EntityTooSmall"])
"""Refusals that no setting would change: another object may well be accepted."""


def classify(operation: str, code: str, status: int) -> ErrorClass:
    """What an answer with this error code and HTTP status means; unknown codes mean what their status says."""
    if operation.startswith("AssumeRole"):
        return ErrorClass.CREDENTIALS if status < 500 else ErrorClass.TRANSIENT
    if operation == "HeadObject" and status == 404:
        return ErrorClass.NO_OBJECT
    known = _ERROR_CLASSES.get(code) or _STATUSES.get(status)
    if known is not None:
        return known
    return ErrorClass.UNACCEPTABLE if 400 <= status < 500 else ErrorClass.TRANSIENT


def permission_for(operation: str) -> str:
    """What a policy must allow for this operation; every request that writes an object needs the same."""
    return _PERMISSIONS.get(operation, "s3:PutObject")

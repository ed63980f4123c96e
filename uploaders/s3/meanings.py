"""What the error codes of S3 and of servers like it mean, as tables (Amazon S3 API Reference, "Error responses")."""

from enum import Enum, auto
from types import MappingProxyType


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

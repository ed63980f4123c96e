"""How to deliver to one bucket: plain data, checked when it is made."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from uploaders.s3.keys import DEFAULT_TEMPLATE, KeyTemplate
from uploaders.s3.parts import DEFAULT_PART_BYTES, plan_parts


class Content(StrEnum):
    """What the object of a large call log's delivery holds."""

    DETAIL = "detail"
    """The detail; its core went elsewhere, or is an object of its own."""
    WHOLE = "whole"
    """The call log in one piece, as a function that the bucket triggers expects it."""


class ObjectEncoding(StrEnum):
    """How an object's content is stored."""

    ZSTD = "zstd"
    """`Content-Encoding: zstd`: the stored frames as they are, which costs no time."""
    PLAIN = "plain"
    """JSON without any encoding."""
    GZIP = "gzip"
    """`Content-Encoding: gzip`."""


class ServerSideEncryption(StrEnum):
    """How the server encrypts what it keeps."""

    AES256 = "AES256"
    """With keys of the server (SSE-S3)."""
    KMS = "aws:kms"
    """With a key of the key management service (SSE-KMS)."""
    NONE = "none"
    """Nothing is asked for: the bucket's own default holds."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """Credentials are no part of it: they come by the usual AWS chain. Durations are seconds.

    Raises `ValueError` when a field cannot be used, naming it.
    """

    bucket: str
    prefix: str = ""
    """A folder for all objects; empty: the keys begin with the template."""
    key: str = DEFAULT_TEMPLATE
    """Template of keys, without prefix and ending; see `uploaders.s3.keys`."""
    endpoint_url: str | None = None
    """The server, where that is not Amazon's."""
    region: str | None = None
    """None: as AWS_REGION, AWS_DEFAULT_REGION or the profile say, else us-east-1."""
    profile: str | None = None
    """A profile of the shared AWS configuration; None: AWS_PROFILE or the default one."""
    path_style: bool | None = None
    """Whether the bucket stands in the path instead of the host name; None: wherever `endpoint_url` is set."""
    encryption: ServerSideEncryption = ServerSideEncryption.AES256
    kms_key_id: str | None = None
    """With `encryption` KMS: the key; None: the account's default key."""
    storage_class: str | None = None
    content: Content = Content.DETAIL
    token_in_whole: bool = False
    """With `content` WHOLE: whether each whole holds the agent's token, as its last member `token`."""
    encoding: ObjectEncoding = ObjectEncoding.ZSTD
    part_bytes: int = DEFAULT_PART_BYTES
    parts_at_once: int = 4
    """How many parts are in memory at once, being made or under way, over all objects."""
    if_none_match: bool = True
    """Whether a server is asked not to replace an object (`If-None-Match: *`); one that cannot is found out."""
    checksums: bool = True
    """Whether bodies go with a CRC-32 (`x-amz-checksum-crc32`); a `Content-MD5` is for servers that refuse that."""
    ca_file: Path | None = None
    """PEM certificates of authorities to trust instead of the system's."""
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    """Between two parts of an answer, and from the end of a request to its answer."""
    request_timeout: float = 300.0
    """For one request in all, with its body: a server that ceases to read must not hold a slot for ever."""

    def __post_init__(self) -> None:
        """Find out before the first delivery what can never work."""
        if not self.bucket:
            raise ValueError("bucket: should name a bucket")
        if self.parts_at_once < 1:
            raise ValueError(f"parts_at_once: should be at least 1, not {self.parts_at_once}")
        if self.kms_key_id is not None and self.encryption is not ServerSideEncryption.KMS:
            raise ValueError(f'kms_key_id: needs encryption = "{ServerSideEncryption.KMS}"')
        plan_parts(0, self.part_bytes)
        self.template()

    def template(self) -> KeyTemplate:
        """The parsed template of keys."""
        return KeyTemplate(self.folder, self.key)

    @property
    def folder(self) -> str:
        """`prefix` as it stands before every key, with the `/` at its end."""
        return f"{self.prefix.rstrip('/')}/" if self.prefix else ""

    @property
    def addresses_by_path(self) -> bool:
        """Whether the bucket stands in the path of the address."""
        return self.endpoint_url is not None if self.path_style is None else self.path_style

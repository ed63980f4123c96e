"""The settings of a bucket: Amazon S3, or a server that speaks its protocol."""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, FilePath, ValidationInfo, field_validator

from config.destinations.base import DestinationTable, LaneConcurrency
from config.types import (
    GIB,
    MIB,
    MINUTE,
    Choice,
    Duration,
    Endpoint,
    OptionalName,
    Shown,
    Size,
    crosses_network_in_clear,
    format_path,
    format_size,
)

# What a template of object keys may hold: pure checks, each with advice.
#
# The rules are those of the uploader that makes the keys; they are told here before anything starts.

DEFAULT_KEY = "{date}/{call_id}/{event}-{record_id}"
VARIABLES = ("agent_id", "call_id", "date", "event", "record_id")
LONGEST_KEY_BYTES = 1024
"""Of UTF-8, with the prefix (Amazon S3 User Guide, "Creating object key names")."""
LONGEST_VALUE_CHARACTERS = 80
"""Longer ids are cut."""
LONGEST_ENDING = ".detail.json.zst"

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_RELATIVE = re.compile(r"(^|/)\.{1,2}(/|$)")


def check_prefix(prefix: str) -> str:
    """A folder for all objects, without the `/` at its end; empty for none. Raises ValueError, with advice."""
    folder = prefix.rstrip("/")
    if folder and not _is_path(folder):
        raise ValueError("should be a folder such as calls/prod: visible characters, no empty folder, no `.` or `..`")
    return folder


def check_key(template: str, prefix: str) -> str:
    """A template of which every record's object gets a key of its own. Raises ValueError, with advice."""
    known = ", ".join(f"{{{name}}}" for name in VARIABLES)
    names = _VARIABLE.findall(template)
    if set(names) - set(VARIABLES) or set(_VARIABLE.sub("", template)) & {"{", "}"}:
        raise ValueError(f"should hold no braces but those of {known}")
    last = [found[-1] for part in template.split("/") if (found := _VARIABLE.findall(part))]
    if "record_id" not in last:
        raise ValueError("should hold {record_id}, as the last variable of a folder or of the name")
    longest = _VARIABLE.sub("x" * LONGEST_VALUE_CHARACTERS, template) + LONGEST_ENDING
    if not _is_path(longest):
        raise ValueError("should have visible characters, no empty folder, and none called `.` or `..`")
    if len(f"{prefix}/{longest}".encode()) > LONGEST_KEY_BYTES:
        raise ValueError(f"makes keys longer than {LONGEST_KEY_BYTES} bytes: shorten it, or the prefix")
    return template


def _is_path(text: str) -> bool:
    return text.isprintable() and not text.startswith("/") and "//" not in text and not _RELATIVE.search(text)


SMALLEST_PART = 5 * MIB
LARGEST_PART = 5 * GIB

_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}", re.ASCII)


class ObjectContent(StrEnum):
    """What the object of a large call log holds."""

    DETAIL = "detail"
    """The detail."""
    WHOLE = "whole"
    """The call log in one piece."""


class ObjectEncoding(StrEnum):
    """How objects are stored."""

    ZSTD = "zstd"
    """Content-Encoding: zstd."""
    PLAIN = "plain"
    """JSON."""
    GZIP = "gzip"
    """Content-Encoding: gzip."""


class Encryption(StrEnum):
    """How the server encrypts what it keeps."""

    AES256 = "aes256"
    """With keys of the server."""
    KMS = "kms"
    """With a key of the key management service."""
    NONE = "none"
    """As the bucket's own default says."""


class S3Destination(DestinationTable):
    """A bucket that takes objects. Credentials come by the usual AWS chain, never from here."""

    type: Literal["s3"]
    """`s3`: a bucket of Amazon S3 or of a server that speaks its protocol."""
    bucket: str
    """The bucket; it must exist."""
    prefix: str = "callspool"
    """A folder for all objects, which the lifecycle rule of `callspool s3 setup` is for; empty for none."""
    endpoint_url: Endpoint | None = None
    """The server, where it is not Amazon's."""
    region: OptionalName = None
    """By default as AWS_REGION, AWS_DEFAULT_REGION or the profile say, else us-east-1."""
    profile: OptionalName = None
    """A profile of the shared AWS configuration; by default AWS_PROFILE."""
    path_style: bool | None = None
    """Whether the bucket stands in the path instead of the host name; by default where `endpoint_url` is set."""
    notify: OptionalName = None
    """The `http` destination that gets the core and a notice of the object; without it the bucket gets everything."""
    key: str = DEFAULT_KEY
    """Keys below the prefix, made of `{agent_id}`, `{call_id}`, `{date}`, `{event}` and `{record_id}`."""
    object: Annotated[ObjectContent, Choice] = ObjectContent.DETAIL
    """What the object of a large call log holds: its `detail`, or the `whole` call log."""
    token_in_whole: bool = False
    """With `object = "whole"`: whether each whole carries the agent's token, as the SDK's own uploads do."""
    encoding: Annotated[ObjectEncoding, Choice] = ObjectEncoding.ZSTD
    """`zstd` (as stored in the spool: costs nothing), `gzip`, or `plain` JSON."""
    encryption: Annotated[Encryption, Choice] = Encryption.AES256
    """`aes256`, `kms`, or `none` to leave it to the bucket's default."""
    kms_key_id: OptionalName = None
    """With `encryption = "kms"`: the key; by default the account's own for S3."""
    storage_class: OptionalName = None
    """The storage class of objects, such as `STANDARD_IA`; by default the bucket's own."""
    part_size: Size = 8 * MIB
    """Objects from 8 MiB on are sent in parts of this size, 5 MiB to 5 GiB; each is in memory while it is sent."""
    parts_at_once: Annotated[int, Field(ge=1, le=64)] = 4
    """Parts in memory at once, being made or under way, over all objects of this destination."""
    if_none_match: bool = True
    """Whether the server is asked not to replace an object; one that does not know how is found out."""
    checksums: bool = True
    """Whether requests carry a CRC-32; `false` sends a Content-MD5, for servers that refuse the other."""
    concurrency: LaneConcurrency = Field(default_factory=LaneConcurrency)
    """Objects under way at once, for each lane."""
    connect_timeout: Duration = 10.0
    """For establishing a connection, TLS included."""
    read_timeout: Duration = MINUTE
    """For the answer to a request, once that is sent."""
    request_timeout: Duration = 5 * MINUTE
    """For one request in all, with its body."""
    ca_file: Annotated[FilePath | None, Shown(format_path)] = None
    """A PEM file of certificate authorities to trust instead of the system's."""

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:
        """See `DestinationTable`."""
        yield from super().warnings(core_max_bytes=core_max_bytes)
        if crosses_network_in_clear(self.endpoint_url):
            yield (
                f"destinations[{self.name}].endpoint_url is not https: "
                "call logs cross the network readable by anyone on the way"
            )

    @field_validator("bucket")
    @classmethod
    def _bucket_is_a_name(cls, bucket: str) -> str:
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("should be the name of a bucket alone: 3 to 255 letters, digits, `.`, `_` and `-`")
        return bucket

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_folder(cls, prefix: str) -> str:
        return check_prefix(prefix)

    @field_validator("key")
    @classmethod
    def _keys_differ(cls, key: str, info: ValidationInfo) -> str:
        return check_key(key, info.data.get("prefix", ""))

    @field_validator("token_in_whole")
    @classmethod
    def _tokens_are_for_wholes(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("object") is ObjectContent.DETAIL:
            raise ValueError('needs `object = "whole"`')
        return wanted

    @field_validator("kms_key_id")
    @classmethod
    def _key_needs_kms(cls, key_id: str | None, info: ValidationInfo) -> str | None:
        if key_id is not None and info.data.get("encryption", Encryption.KMS) is not Encryption.KMS:
            raise ValueError('needs `encryption = "kms"`')
        return key_id

    @field_validator("part_size")
    @classmethod
    def _parts_fit(cls, size: int) -> int:
        if not SMALLEST_PART <= size <= LARGEST_PART:
            raise ValueError(f"should be {format_size(SMALLEST_PART)} to {format_size(LARGEST_PART)}")
        return size

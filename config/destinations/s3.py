"""The settings of a bucket: Amazon S3, or a compatible server."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationInfo, field_validator

from config.destinations.base import DestinationTable, LaneConcurrency
from config.types import Choice, Duration, Endpoint, OptionalName, Shown, Size, checked_key, format_path
from config.values import MINUTE, crosses_network_in_clear, format_size
from uploaders.s3.options import (
    DEFAULT_PART_BYTES,
    DEFAULT_TEMPLATE,
    LARGEST_PART_BYTES,
    SMALLEST_PART_BYTES,
    KeyTemplate,
    ObjectContent,
    ObjectEncoding,
    ServerSideEncryption,
    check_prefix,
    folder_of,
)

_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}", re.ASCII)


def _bucket_names(value: object) -> tuple[str, ...]:
    """Names of buckets from a list, or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    names = tuple(str(each).strip() for each in given) if isinstance(given, list | tuple) else ("",)
    if not all(map(_BUCKET.fullmatch, names)):
        raise ValueError("should be a list of names of buckets")
    return names


BucketNames = Annotated[tuple[str, ...], BeforeValidator(_bucket_names), Shown(lambda names: ",".join(names) or "none")]
"""Names of buckets, separated by commas in a variable."""


class S3Destination(DestinationTable):
    """A bucket that takes objects. Credentials come by the usual AWS chain, never from here."""

    type: Literal["s3"]
    """`s3`: a bucket of Amazon S3 or of an S3-compatible server."""
    bucket: str
    """The bucket; it must exist."""
    prefix: str = "callspool"
    """A folder for all objects, which the lifecycle rule of `callspool s3 setup` covers; empty for none."""
    endpoint_url: Endpoint | None = None
    """The server, if it is not Amazon's."""
    region: OptionalName = None
    """By default from AWS_REGION, AWS_DEFAULT_REGION or the profile, else us-east-1."""
    profile: OptionalName = None
    """A profile of the shared AWS configuration; by default AWS_PROFILE."""
    path_style: bool | None = None
    """Whether the bucket is in the path instead of the host name; by default if `endpoint_url` is set."""
    notify: OptionalName = None
    """The `http` or `kafka` destination that gets the core and a notice of the object; without one the bucket gets
    everything."""
    key: str = DEFAULT_TEMPLATE
    """Keys below the prefix, made of `{agent_id}`, `{call_id}`, `{date}`, `{event}`, `{record_id}` and `{tenant}`."""
    object: Annotated[ObjectContent, Choice] = ObjectContent.DETAIL
    """The content of a large call log's object: its `detail`, or the `whole` call log."""
    token_in_whole: bool = False
    """With `object = "whole"`: whether each whole holds the agent's token, as the SDK's own uploads do."""
    encoding: Annotated[ObjectEncoding, Choice] = ObjectEncoding.ZSTD
    """`zstd` (as stored in the spool: costs nothing), `gzip`, or `plain` JSON."""
    encryption: Annotated[ServerSideEncryption, Choice] = ServerSideEncryption.AES256
    """`aes256`, `kms`, `customer` (SSE-C, with the `customer_key`), or `none` to use the bucket's default."""
    kms_key_id: OptionalName = None
    """With `encryption = "kms"`: the key; by default the account's own key for S3."""
    customer_key: SecretStr | None = None
    """With `encryption = "customer"`: base64 of 32 bytes, sent with each request and not kept by the server."""
    storage_class: OptionalName = None
    """The storage class of objects, such as `STANDARD_IA`; by default the bucket's own."""
    part_size: Size = DEFAULT_PART_BYTES
    """Objects of 8 MiB and more are sent in parts of this size, 5 MiB to 5 GiB, each in memory while being sent."""
    parts_at_once: Annotated[int, Field(ge=1, le=64)] = 4
    """Parts in memory at once, of all objects of this destination together."""
    if_none_match: bool = True
    """Whether the server is asked not to replace an object; servers without support are detected."""
    checksums: bool = True
    """Whether requests carry a CRC-32; `false` sends a Content-MD5, for servers that refuse CRC-32."""
    concurrency: LaneConcurrency = Field(default_factory=LaneConcurrency)
    """Objects under way at once, for each lane."""
    connect_timeout: Duration = 10.0
    """Time to establish a connection, TLS included."""
    read_timeout: Duration = MINUTE
    """Time for the response, once the request is sent."""
    request_timeout: Duration = 5 * MINUTE
    """Time for a whole request, with its body."""
    ca_file: Annotated[FilePath | None, Shown(format_path)] = None
    """A PEM file of certificate authorities to trust instead of the system's."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

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
        KeyTemplate(folder_of(info.data.get("prefix", "")), key)
        return key

    @field_validator("token_in_whole")
    @classmethod
    def _tokens_are_for_wholes(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("object") is ObjectContent.DETAIL:
            raise ValueError('needs `object = "whole"`')
        return wanted

    @field_validator("kms_key_id")
    @classmethod
    def _key_needs_kms(cls, key_id: str | None, info: ValidationInfo) -> str | None:
        if key_id is not None and info.data.get("encryption", ServerSideEncryption.KMS) is not ServerSideEncryption.KMS:
            raise ValueError('needs `encryption = "kms"`')
        return key_id

    @field_validator("customer_key")
    @classmethod
    def _customers_have_a_key(cls, key: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (key is not None) is not (info.data.get("encryption") is ServerSideEncryption.CUSTOMER):
            raise ValueError('goes with `encryption = "customer"`, and only with it')
        if key is not None and crosses_network_in_clear(info.data.get("endpoint_url")):
            raise ValueError("goes with each request: `endpoint_url` has to be https")
        return checked_key(key)

    @field_validator("part_size")
    @classmethod
    def _parts_fit(cls, size: int) -> int:
        if not SMALLEST_PART_BYTES <= size <= LARGEST_PART_BYTES:
            raise ValueError(f"should be {format_size(SMALLEST_PART_BYTES)} to {format_size(LARGEST_PART_BYTES)}")
        return size

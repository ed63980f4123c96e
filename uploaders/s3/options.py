"""How to deliver to one bucket: plain data, checked when it is made."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from spool.records import NAME_ENDINGS, Delivery, Form, Record
from uploaders.durable_file import KEPT_CHARACTERS, safe_name

# Object keys from a template: pure, harmless whatever an agent calls its calls, and never the same for two objects.
#
# A template holds `{agent_id}`, `{call_id}`, `{date}` (UTC, when the record was accepted), `{event}` and
# `{record_id}` (unique among all spools). An ending names the form and the encoding:
#
#     2026-01-31/call-7/call_ended-1f2e3d4c-12.detail.json.zst
#
# Values hold no `/`, so the folders of a key are those of the template; and `{record_id}` is the last variable of its
# folder or name, so that no value beside it can make two records' keys equal.

DEFAULT_TEMPLATE = "{date}/{call_id}/{event}-{record_id}"
LONGEST_KEY_BYTES = 1024
"""Of UTF-8, with the prefix (Amazon S3 User Guide, "Creating object key names")."""
LONGEST_ENDING = ".detail.json.zst"

_NAMES = ("agent_id", "call_id", "date", "event", "record_id", "tenant")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_RELATIVE = re.compile(r"(^|/)\.{1,2}(/|$)")
_ENCODING_ENDINGS = {None: "", "zstd": ".zst", "gzip": ".gz"}


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A prefix, taken as it is, and a template. Raises `ValueError`, with advice about the template."""

    prefix: str
    template: str

    def __post_init__(self) -> None:
        """Check what every key has in common."""
        known = ", ".join(f"{{{name}}}" for name in _NAMES)
        names = _VARIABLE.findall(self.template)
        if set(names) - set(_NAMES) or set(_VARIABLE.sub("", self.template)) & {"{", "}"}:
            raise ValueError(f"should hold no braces but those of {known}")
        # A uid is 8 hexadecimal digits, `-`, and a number: at the end of a folder or name it can be read back.
        last = [found[-1] for part in self.template.split("/") if (found := _VARIABLE.findall(part))]
        if "record_id" not in last:
            raise ValueError(
                "should hold {record_id}, as the last variable of a folder or of the name, or the object of one record "
                f"could replace that of another; for example {DEFAULT_TEMPLATE}"
            )
        longest = _VARIABLE.sub("x" * KEPT_CHARACTERS, self.template) + LONGEST_ENDING
        if not _is_path(self.prefix + longest):
            raise ValueError("should have visible characters, no empty folder, and none called `.` or `..`")
        if len((self.prefix + longest).encode()) > LONGEST_KEY_BYTES:
            raise ValueError(f"makes keys longer than {LONGEST_KEY_BYTES} bytes: shorten it, or the prefix")

    def key(self, delivery: Delivery, form: Form, content_encoding: str | None) -> str:
        """The key of the object that holds this form of the delivery's record."""
        values = dict(_values(delivery.record))
        name = _VARIABLE.sub(lambda variable: values[variable[1]], self.template)
        return f"{self.prefix}{name}{NAME_ENDINGS[form]}.json{_ENCODING_ENDINGS[content_encoding]}"


def keys_of_calls(template: KeyTemplate, call_ids: Iterable[str]) -> tuple[str, re.Pattern[str]] | None:
    """With what the keys of these calls' objects begin, and what they look like, with their variables as groups.

    None where no key names its call.
    """
    if "{call_id}" not in template.template:
        return None
    ids = "|".join(re.escape(safe_name(call_id)) for call_id in call_ids)
    shapes = {"call_id": ids, "record_id": "[0-9a-f]{8}-[0-9]+"}
    pieces = _VARIABLE.split(template.template)
    made, seen = re.escape(template.prefix), set[str]()
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            made += re.escape(piece)
        else:
            made += f"(?P={piece})" if piece in seen else f"(?P<{piece}>{shapes.get(piece, '[^/]*')})"
            seen.add(piece)
    endings = "|".join(re.escape(ending) for ending in NAME_ENDINGS.values())
    encodings = "|".join(re.escape(ending) for ending in _ENCODING_ENDINGS.values())
    return template.prefix + pieces[0], re.compile(rf"{made}(?:{endings})\.json(?:{encodings})")


def _values(record: Record) -> Iterator[tuple[str, str]]:
    yield "agent_id", safe_name(record.agent_id or "")
    yield "call_id", safe_name(record.call_id)
    yield "date", datetime.fromtimestamp(record.accepted_at / 1000, UTC).date().isoformat()
    yield "event", safe_name(record.event)
    yield "record_id", safe_name(record.uid)
    yield "tenant", safe_name(record.tenant or "")


def _is_path(text: str) -> bool:
    return text.isprintable() and not text.startswith("/") and "//" not in text and not _RELATIVE.search(text)


def check_prefix(prefix: str) -> str:
    """A folder for all objects, without the `/` at its end; empty for none. Raises `ValueError`, with advice."""
    folder = prefix.rstrip("/")
    if folder and not _is_path(folder):
        raise ValueError("should be a folder such as calls/prod: visible characters, no empty folder, no `.` or `..`")
    return folder


def folder_of(prefix: str) -> str:
    """A prefix as it stands before every key, with the `/` at its end."""
    return f"{prefix.rstrip('/')}/" if prefix else ""


# How an object is cut into parts: pure, from its size.
#
# The limits are those of Amazon S3 (User Guide, "Amazon S3 multipart upload limits"); servers that speak its protocol
# have the same or wider ones.

MEBIBYTE = 1 << 20

PUT_BELOW_BYTES = 8 * MEBIBYTE
"""A smaller object goes in one request."""
DEFAULT_PART_BYTES = 8 * MEBIBYTE
"""Each part is held in memory while it is sent."""
SMALLEST_PART_BYTES = 5 * MEBIBYTE
"""Only the last part of an upload may be smaller."""
LARGEST_PART_BYTES = 5 * 1024 * MEBIBYTE
MOST_PARTS = 10_000
LARGEST_OBJECT_BYTES = 5 * 1024 * 1024 * MEBIBYTE


class ObjectTooLarge(ValueError):
    """No object may be as large as that."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """An object of `total_bytes` in parts of `part_bytes`, the last one with the rest. Parts are numbered from 1."""

    total_bytes: int
    part_bytes: int

    @property
    def multipart(self) -> bool:
        """Whether it takes more than one request."""
        return self.total_bytes >= PUT_BELOW_BYTES

    @property
    def count(self) -> int:
        """How many parts there are; an empty object has one, empty."""
        return max(1, -(-self.total_bytes // self.part_bytes))


def plan_parts(total_bytes: int, part_bytes: int = DEFAULT_PART_BYTES) -> PartPlan:
    """The plan for an object of `total_bytes`; parts become larger than asked for where they would be too many.

    Raises `ObjectTooLarge`, and `ValueError` for parts outside of what S3 takes or for a negative size.
    """
    if not SMALLEST_PART_BYTES <= part_bytes <= LARGEST_PART_BYTES:
        raise ValueError(f"a part has {SMALLEST_PART_BYTES} to {LARGEST_PART_BYTES} bytes, not {part_bytes}")
    if total_bytes < 0:
        raise ValueError(f"an object cannot have {total_bytes} bytes")
    if total_bytes > LARGEST_OBJECT_BYTES:
        raise ObjectTooLarge(f"an object has at most {LARGEST_OBJECT_BYTES} bytes, this one would have {total_bytes}")
    if total_bytes < PUT_BELOW_BYTES:
        return PartPlan(total_bytes, PUT_BELOW_BYTES)
    return PartPlan(total_bytes, max(part_bytes, _whole_mebibytes(-(-total_bytes // MOST_PARTS))))


def _whole_mebibytes(size: int) -> int:
    return -(-size // MEBIBYTE) * MEBIBYTE


class ObjectContent(StrEnum):
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

    AES256 = "aes256"
    """With keys of the server (SSE-S3)."""
    KMS = "kms"
    """With a key of the key management service (SSE-KMS)."""
    CUSTOMER = "customer"
    """With a key of ours that goes with each request and is not kept there (SSE-C)."""
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
    """Template of keys, without prefix and ending; see `uploaders.s3.options`."""
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
    customer_key: bytes | None = field(default=None, repr=False)
    """With `encryption` CUSTOMER: the key, 32 bytes."""
    storage_class: str | None = None
    content: ObjectContent = ObjectContent.DETAIL
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
        if (self.customer_key is not None) is not (self.encryption is ServerSideEncryption.CUSTOMER):
            raise ValueError(
                f'customer_key: goes with encryption = "{ServerSideEncryption.CUSTOMER}", and only with it'
            )
        plan_parts(0, self.part_bytes)
        try:
            self.template()
        except ValueError as error:
            raise ValueError(f"key: {error}") from None

    def template(self) -> KeyTemplate:
        """The parsed template of keys."""
        return KeyTemplate(self.folder, self.key)

    @property
    def folder(self) -> str:
        """`prefix` as it stands before every key, with the `/` at its end."""
        return folder_of(self.prefix)

    @property
    def addresses_by_path(self) -> bool:
        """Whether the bucket stands in the path of the address."""
        return self.endpoint_url is not None if self.path_style is None else self.path_style

"""Object keys from a template: pure, harmless whatever an agent calls its calls, and never the same for two objects.

A template holds `{agent_id}`, `{call_id}`, `{date}` (UTC, when the record was accepted), `{event}` and
`{record_id}` (unique among all spools). An ending names the form and the encoding:

    2026-01-31/call-7/call_ended-1f2e3d4c-12.detail.json.zst

Values hold no `/`, so the folders of a key are those of the template; and `{record_id}` is the last variable of its
folder or name, so that no value beside it can make two records' keys equal.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from spool.records import Delivery, Form, Record
from uploaders.safe_names import KEPT_CHARACTERS, safe_name

DEFAULT_TEMPLATE = "{date}/{call_id}/{event}-{record_id}"
LONGEST_KEY_BYTES = 1024
"""Of UTF-8, with the prefix (Amazon S3 User Guide, "Creating object key names")."""
LONGEST_ENDING = ".detail.json.zst"

_NAMES = ("agent_id", "call_id", "date", "event", "record_id")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_RELATIVE = re.compile(r"(^|/)\.{1,2}(/|$)")
_ENDINGS = {Form.WHOLE: "", Form.CORE: ".core", Form.DETAIL: ".detail"}
_ENCODING_ENDINGS = {None: "", "zstd": ".zst", "gzip": ".gz"}


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A prefix, taken as it is, and a template. Raises `ValueError`, naming what is wrong with it."""

    prefix: str
    template: str

    def __post_init__(self) -> None:
        """Check what every key has in common."""
        _check_variables(self.template)
        _check_record_id(self.template)
        example = self.prefix + _VARIABLE.sub("x" * KEPT_CHARACTERS, self.template) + LONGEST_ENDING
        if len(example.encode()) > LONGEST_KEY_BYTES:
            raise ValueError(f"key: with long ids, keys would be longer than {LONGEST_KEY_BYTES} bytes")
        if example.startswith("/") or "//" in example or _RELATIVE.search(example):
            raise ValueError("key: should have no empty folder, and none called `.` or `..`")
        if not example.isprintable():
            raise ValueError("key: should have printable characters only")

    def key(self, delivery: Delivery, form: Form, content_encoding: str | None) -> str:
        """The key of the object that holds this form of the delivery's record."""
        values = dict(_values(delivery.record))
        name = _VARIABLE.sub(lambda variable: values[variable[1]], self.template)
        return f"{self.prefix}{name}{_ENDINGS[form]}.json{_ENCODING_ENDINGS[content_encoding]}"


def _values(record: Record) -> Iterator[tuple[str, str]]:
    yield "agent_id", safe_name(record.agent_id or "")
    yield "call_id", safe_name(record.call_id)
    yield "date", datetime.fromtimestamp(record.accepted_at / 1000, UTC).date().isoformat()
    yield "event", safe_name(record.event)
    yield "record_id", safe_name(record.uid)


def _check_variables(template: str) -> None:
    unknown = [name for name in _VARIABLE.findall(template) if name not in _NAMES]
    known = ", ".join(f"{{{name}}}" for name in _NAMES)
    if unknown:
        raise ValueError(f"key: there is no {{{unknown[0]}}}; there are {known}")
    if set(_VARIABLE.sub("", template)) & {"{", "}"}:
        raise ValueError(f"key: has a brace that belongs to none of {known}")


def _check_record_id(template: str) -> None:
    """A uid is 8 hexadecimal digits, `-`, and a number: at the end of a folder or name it is read back from its end."""
    for part in template.split("/"):
        names = _VARIABLE.findall(part)
        if names and names[-1] == "record_id":
            return
    raise ValueError(
        "key: should hold {record_id} as the last variable of a folder or of the name, or one record's object "
        f"could replace another's; for example {DEFAULT_TEMPLATE}"
    )

"""What a template of object keys may hold: pure checks, each with advice.

The rules are those of the uploader that makes the keys; they are told here before anything starts.
"""

import re

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

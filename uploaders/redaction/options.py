"""What the configuration may say of redaction. Pure."""

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import re2


class Detector(StrEnum):
    """What is recognised by its form; the word is the rule's name in counts."""

    CARD = "card"
    """Card numbers: 13 to 19 digits with an issuer's beginning and a valid check digit."""
    IBAN = "iban"
    """Account numbers (ISO 13616) of a country's length with valid check digits."""
    EMAIL = "email"
    """E-mail addresses."""
    PHONE = "phone"
    """Telephone numbers: with a country code, North American, or with a national 0."""
    SSN = "ssn"
    """Numbers written like those of US social security."""
    SPOKEN = "spoken"
    """Seven digits and more that are written as English words."""
    NUMBER = "number"
    """Any seven digits and more, with what people write between them."""


FIELD: Final = "field"
"""The rule's name of values that are redacted for where they stand."""
IDENTIFYING: Final = frozenset({
    "call_id", "agent_id", "wcall_event", "update_type", "environment", "token", "s3_reference", "s3_key", "s3_bucket",
    "call_started_at", "call_ended_at", "recording_url",
})  # fmt: skip
"""Top-level members that say whose call it is, which, when, and where something of it lies: never redacted."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_LONGEST: Final = 1000


class Redaction(msgspec.Struct, frozen=True):
    """Rules for call logs. Without any of them nothing is looked at."""

    detect: tuple[Detector, ...] = ()
    patterns: tuple[tuple[str, str], ...] = ()
    """Own ones: name and expression, in RE2's syntax."""
    fields: tuple[str, ...] = ()
    """Paths of members whose values are replaced, whatever they are: `customer.phone`, `*.notes`, `**.date_of_birth`.
    Lists are passed through; `*` is one name, `**` any number of them."""


def named_pattern(text: str) -> tuple[str, str]:
    """`NAME=EXPRESSION` as a pair. Raises `ValueError`."""
    name, equals, expression = text.partition("=")
    if not equals or not _NAME.fullmatch(name.strip()) or not 0 < len(expression) <= _LONGEST:
        raise ValueError("should be NAME=EXPRESSION: a name of small letters, digits, `_` and `-`")
    if name.strip() in {*Detector, FIELD}:
        raise ValueError(f"should have a name of its own, not {name.strip()}")
    compiled(expression)
    return name.strip(), expression


def compiled(expression: str, *, longest: bool = False) -> "re2._Regexp[str]":
    """The expression, ready for use, by RE2: its time is linear in the text, whatever the expression.

    Raises `ValueError` for one that cannot be used, and where RE2 is not installed.
    """
    try:
        import re2  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ValueError(f"needs RE2: pip install 'callspool[redaction]' ({error})") from None
    options = re2.Options()
    options.log_errors = False
    options.longest_match = longest
    try:
        pattern = re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "it is no expression"
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is no expression of RE2's syntax: {said}") from None
    if pattern.search("") is not None:
        raise ValueError("finds an empty text, too, which is everywhere")
    return pattern


def checked_field(path: str) -> str:
    """The path, if it is one. Raises `ValueError`."""
    names = path.split(".")
    if not all(names) or names[-1] == "**" or names.count("**") > 1:
        raise ValueError(
            "should be names with dots between them, such as customer.phone or **.date_of_birth, with one ** at most"
        )
    if names[0] in IDENTIFYING and len(names) == 1:
        raise ValueError(f"{path} says whose call it is, which or when, and cannot be redacted")
    return path

"""Redaction: what a caller says of themselves is masked before it leaves this machine. Pure.

Card numbers (with a valid check digit), IBANs, e-mail addresses, numbers like those of US social security, long runs of
digits, and the number and the names that the call's metadata have.
"""

import re
from collections.abc import Sequence
from typing import Final

_RUN: Final = re.compile(r"(?<![\w])\+?\d(?:[\d\s().-]{5,30})\d(?!\w)")
"""Seven digits and more, with what people write between them."""
_IBAN: Final = re.compile(r"\b[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){3,7}(?:\s?[A-Z0-9]{1,3})?\b")
_EMAIL: Final = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_SSN: Final = re.compile(r"\b\d{3}[- ]\d{2}[- ]\d{4}\b")
_DIGITS: Final = 7
"""The shortest number of a telephone that is worth masking; years, prices and times are shorter."""
_SPOKEN: Final = re.compile(
    r"\b(?:(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|double|triple)[\s,-]+){6,}"
    r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)\b",
    re.IGNORECASE,
)


def redacted(text: str, names: Sequence[str] = (), number: str | None = None) -> str:
    """The text with what identifies a caller masked. Addresses first: a name may be part of one."""
    text = _EMAIL.sub("[e-mail]", text)
    for name in names:
        for word in (name, *name.split()):
            if len(word) > 2:
                text = re.sub(rf"\b{re.escape(word)}\b", "[name]", text, flags=re.IGNORECASE)
    if number:
        text = text.replace(number, "[number]")
    text = _IBAN.sub("[iban]", text)
    text = _SSN.sub("[number]", text)
    text = _SPOKEN.sub("[number]", text)
    return _RUN.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    digits = "".join(filter(str.isdigit, found[0]))
    if len(digits) < _DIGITS:
        return found[0]
    return "[card]" if 13 <= len(digits) <= 19 and _luhn(digits) else "[number]"


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: the check digit of a card."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0

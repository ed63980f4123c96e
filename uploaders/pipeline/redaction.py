"""Redaction of what models on other machines are asked: all that the rules recognise, and what the call's metadata say.

The rules are those that call logs may be redacted by before they are stored (`uploaders.redaction`).
"""

from collections.abc import Sequence
from typing import Final

from uploaders.redaction.finders import finders_of, literal, masked
from uploaders.redaction.options import Detector, Redaction

_RULES: Final = Redaction(
    (Detector.CARD, Detector.IBAN, Detector.EMAIL, Detector.SSN, Detector.SPOKEN, Detector.NUMBER)
)


def redacted(text: str, names: Sequence[str] = (), number: str | None = None) -> str:
    """The text with what identifies a caller masked. Addresses first: a name may be part of one."""
    words = dict.fromkeys(word for name in names for word in (name, *name.split()) if len(word) > 2)
    known = [literal("name", word) for word in words]
    if number:
        known.append(literal("number", number))
    email = finders_of(_ADDRESSES)
    return masked(text, (*email, *known, *finders_of(_RULES)))


_ADDRESSES: Final = Redaction((Detector.EMAIL,))

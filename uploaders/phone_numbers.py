"""Telephone numbers as people and systems write them, compared as numbers. Pure.

Which digits of a national writing belong to the number, and which are a prefix for dialling, differs from country to
country: the library `phonenumbers` (Google's rules) knows. It is imported where a number is to be read.
"""

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

_DIGITS_MOST: Final = 7
"""Of the end of a number, by which a database finds candidates."""
_DIGITS_LEAST: Final = 7
"""Fewer are an extension of somebody's exchange, and no number."""
_ADDRESS: Final = re.compile(r"(?:[^<]*<)?\s*(?:sips?|tel|callto|whatsapp):(?://)?([^@>?]*)", re.IGNORECASE)
_EXTENSION: Final = re.compile(r"(?:;ext=|\s*,?\s*(?:ext\.?|x|#)\s*)([0-9]{1,7})\s*$", re.IGNORECASE)
_WRITTEN: Final = re.compile(r"\+?[0-9 ()\[\]./\u00a0\u2010-\u2015\u202f-]+")
"""A number and nothing else: what merely has one somewhere in it is not one."""


class PhoneNumberMatcher:
    """Knows one number in every writing, and takes no other for it.

    A number that cannot be read, such as `anonymous` or the extension of an exchange, matches only what is written the
    same. Raises `ValueError` where the library is missing, or does not know the country.
    """

    def __init__(self, number: str, country: str | None) -> None:
        """`country` (ISO 3166, such as `DE`) is that of numbers that are written without their country's code."""
        self._written = number.strip()
        self._country = checked_country(country)
        self.read_as = read_number(self._written, self._country)
        """In E.164, with an extension behind `;ext=`; None for one that cannot be read."""
        digits = re.sub(r"\D", "", (self.read_as or "").partition(";")[0])[-_DIGITS_MOST:]
        self._digits = re.compile(r"[^0-9]*".join(digits)) if digits else None
        self.like = f"%{'%'.join(digits)}%" if digits else re.sub(r"[%_\\]", "_", self._written)
        """A pattern of SQL's `LIKE` that every writing of the number fits, and some others do too."""

    def matches(self, text: str | None) -> bool:
        """Whether this is the number."""
        if text is None or text.strip() == self._written:
            return text is not None
        if self._digits is None or self._digits.search(text) is None:
            return False
        return read_number(text, self._country) == self.read_as


def checked_country(country: str | None) -> str | None:
    """The country, if there is such a one. Raises `ValueError`, also where the library is missing."""
    try:
        from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415  # an extra
    except ImportError:
        raise ValueError("`phone` needs a library: pip install 'callspool[phone]'") from None
    if country is not None and country not in SUPPORTED_REGIONS:
        raise ValueError(f"`country` should be a country's two letters, such as DE or US, not {country}")
    return country


def read_number(text: str, country: str | None) -> str | None:
    """The number in E.164, with an extension behind `;ext=`; None for what is no number.

    Without a `+` it is a number of the country where that writes its numbers so, and else one whose `+` or `00` was
    left out, if there is such a number.
    """
    address = _ADDRESS.match(text)
    bare = unquote(address[1]) if address else text
    extension = _EXTENSION.search(bare)
    bare = bare[: extension.start()] if extension else bare.partition(";")[0]
    bare = bare.strip()
    digits = re.sub(r"[^0-9]", "", bare)
    if not _WRITTEN.fullmatch(bare) or not _DIGITS_LEAST <= len(digits) <= 20:
        return None
    number = _international(f"+{digits}") if bare.startswith("+") else _without_plus(bare, digits, country)
    return None if number is None else number + (f";ext={extension[1]}" if extension else "")


def _international(written: str) -> str | None:
    number = _parsed(written, None)
    return None if number is None else _e164(number)


def _without_plus(written: str, digits: str, country: str | None) -> str | None:
    from phonenumbers import is_possible_number, is_valid_number  # noqa: PLC0415  # an extra

    full = _parsed(f"+{digits.removeprefix('00')}", None)
    if country is None:
        return _e164(full) if full is not None and is_possible_number(full) else None
    national = _parsed(written, country)
    readings = [each for each in (full, national) if each is not None and is_valid_number(each)]
    if national is not None and (not readings or digits == _national_digits(national)):
        readings = [national] if is_possible_number(national) else readings
    return _e164(readings[0]) if readings else None


def _parsed(written: str, country: str | None) -> "PhoneNumber | None":
    from phonenumbers import NumberParseException, parse  # noqa: PLC0415  # an extra

    try:
        return parse(written, country)
    except NumberParseException:
        return None


def _national_digits(number: "PhoneNumber") -> str:
    """As its country writes it, with a 0 or without."""
    from phonenumbers import PhoneNumberFormat, format_number  # noqa: PLC0415  # an extra

    return re.sub(r"[^0-9]", "", format_number(number, PhoneNumberFormat.NATIONAL))


def _e164(number: "PhoneNumber") -> str:
    from phonenumbers import PhoneNumberFormat, format_number  # noqa: PLC0415  # an extra

    written: str = format_number(number, PhoneNumberFormat.E164)
    return written

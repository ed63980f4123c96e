"""Telephone numbers: every writing of one is found, and no other number is taken for it."""

import re
import sqlite3
from contextlib import closing

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploaders.phone_numbers import PhoneNumberMatcher, read_number

GERMAN = "+491701234567"
SAME = (
    "+49 170 1234567", "(0170) 123-4567", "0170/1234567", "0049 170 1234567", "+49 (0)170 1234567", "491701234567",
    "tel:+49-170-1234567", "sip:+491701234567@host", "sips:+491701234567@host:5061;user=phone", "1701234567",
    '"Bob" <sip:0170%201234567@10.0.0.1>', "whatsapp:+491701234567", "  +49 170 1234567 ", "+49\u00a0170\u20111234567",
)  # fmt: skip
OTHERS = (
    "+49 170 1234568", "+43 170 1234567", "+1 170 123 4567", "01701234567 ext. 5", "+491701234567;ext=12", "1234567",
    "170123456", "room 7 0170 1234567", "+49 170 1234567 or +49 170 1234568", "sip:alice@host", "anonymous", "",
    "+", "0", "sip:4567@+491701234567", "+4911701234567", "00170 1234567",
)  # fmt: skip


@pytest.mark.parametrize("written", SAME)
def test_one_number_is_found_in_every_writing(written: str) -> None:
    """With a country's code, without, as an address, with what people write between; and the other way round."""
    assert PhoneNumberMatcher(GERMAN, "DE").matches(written)
    assert PhoneNumberMatcher(written, "DE").matches(GERMAN)


@pytest.mark.parametrize("written", OTHERS)
def test_another_number_is_never_taken_for_it(written: str) -> None:
    """Not one that ends like it, has an extension, or has the number somewhere in a text."""
    assert not PhoneNumberMatcher(GERMAN, "DE").matches(written)
    assert not PhoneNumberMatcher(written, "DE").matches(GERMAN)


@pytest.mark.parametrize(
    ("country", "written", "expected"),
    [
        ("US", "(555) 010-0999", "+15550100999"),
        ("US", "15550100999", "+15550100999"),
        ("US", "2025550123", "+12025550123"),
        ("US", "011 49 170 1234567", GERMAN),
        ("US", "491701234567", GERMAN),
        ("IT", "06 1234 5678", "+390612345678"),
        ("ES", "612 34 56 78", "+34612345678"),
        ("GB", "020 7946 0018", "+442079460018"),
        ("RU", "8 (912) 345-67-89", "+79123456789"),
        ("DE", "33612345678", "+33612345678"),
        (None, "0170 1234567", None),
        (None, "00491701234567", GERMAN),
        (None, "15550100999", "+15550100999"),
        ("DE", "7001", None),
        ("DE", "0170 1234567 x12", f"{GERMAN};ext=12"),
    ],
)
def test_a_national_number_is_read_by_the_rules_of_its_country(
    country: str | None, written: str, expected: str | None
) -> None:
    """What is a prefix for dialling differs: Italy keeps its 0, Russia dials 8, North America needs nothing."""
    assert read_number(written, country) == expected


def test_what_is_no_number_is_found_as_it_is_written() -> None:
    """An extension of an exchange and a name stand for themselves alone."""
    assert PhoneNumberMatcher("7001", "DE").matches("7001")
    assert not PhoneNumberMatcher("7001", "DE").matches("+49 170 1237001")
    assert not PhoneNumberMatcher("a%b", None).matches("axb")
    assert not PhoneNumberMatcher("7001", "DE").matches(None)


@pytest.mark.parametrize(("country", "says"), [("XX", "two letters"), ("de", "two letters")])
def test_a_country_that_is_not_there_is_named(country: str, says: str) -> None:
    """Nothing is searched by the rules of another one."""
    with pytest.raises(ValueError, match=says):
        PhoneNumberMatcher(GERMAN, country)


WRITINGS = (
    phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL,
    phonenumbers.PhoneNumberFormat.NATIONAL, phonenumbers.PhoneNumberFormat.RFC3966,
)  # fmt: skip
EXAMPLES = {
    region: example
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    if (example := phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)) is not None
    and len(str(example.national_number)) >= 7
}
"""Without islands whose numbers are as short as extensions."""


@pytest.mark.parametrize("style", WRITINGS)
def test_a_mobile_number_of_any_country_is_found_in_its_own_writings(style: int) -> None:
    """And the pattern of a database finds whatever the rules find."""
    with closing(sqlite3.connect(":memory:")) as database:
        for region, number in EXAMPLES.items():
            matcher = PhoneNumberMatcher(phonenumbers.format_number(number, WRITINGS[0]), region)
            written = phonenumbers.format_number(number, style)
            assert matcher.matches(written), (region, written)
            assert database.execute("SELECT ? LIKE ?", (written, matcher.like)).fetchone() == (1,)


@given(st.text(st.sampled_from("0123456789+-() ;=xte:sp@<>"), max_size=24))
def test_what_is_found_fits_the_pattern_of_the_database(text: str) -> None:
    """Whatever else stands there; and reading any text ends, with a number or with none."""
    matcher = PhoneNumberMatcher(GERMAN, "DE")
    found = read_number(text, "DE")
    assert found is None or re.fullmatch(r"\+[0-9]{6,17}(;ext=[0-9]{1,7})?", found)
    if matcher.matches(text):
        with closing(sqlite3.connect(":memory:")) as database:
            assert database.execute("SELECT ? LIKE ?", (text, matcher.like)).fetchone() == (1,)

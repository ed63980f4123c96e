"""What the rules of redaction find in texts, and what they leave alone."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploaders.redaction.finders import find, finders_of, is_iban, masked
from uploaders.redaction.options import Detector, Redaction, checked_field, compiled, named_pattern

STORED = Redaction((Detector.CARD, Detector.IBAN, Detector.EMAIL, Detector.PHONE))
EVERYTHING = Redaction(tuple(Detector), (("order", "ORD-[0-9]+"), ("word", "s[a-z]+t")))


@pytest.mark.parametrize(
    ("digits", "valid"),
    [
        ("4111111111111111", True), ("5555555555554444", True), ("378282246310005", True), ("6011111111111117", True),
        ("3530111333300000", True), ("30569309025904", True), ("4111111111111112", False), ("4111111111111", False),
        ("378282246310006", False), ("30569309025940", False),
    ],
)  # fmt: skip
def test_the_check_digit_of_a_card(digits: str, valid: bool) -> None:
    """ISO/IEC 7812-1, with the test numbers of the card schemes."""
    assert bool(find(digits, finders_of(Redaction((Detector.CARD,))))) is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("DE89 3704 0044 0532 0130 00", True), ("GB29 NWBK 6016 1331 9268 19", True), ("NO93 8601 1117 947", True),
        ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", True), ("nl91abna0417164300", True),
        ("DE89 3704 0044 0532 0130 01", False), ("DE89 3704 0044 0532 0130 0", False),
        ("ZZ89370400440532013000", False),
    ],
)  # fmt: skip
def test_the_check_digits_of_an_iban(text: str, valid: bool) -> None:
    """ISO 13616, with the examples of its registry."""
    assert is_iban(text) is valid


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("4111-1111-1111-1111 until 12/27, code 123", "[card] until 12/27, code 123"),
        ("4111 1111 1111 1111 123", "[card] 123"),
        ("5555555555554444 4111111111111111", "[card] [card]"),
        ("pay to DE89 3704 0044 0532 0130 00 and thank you", "pay to [iban] and thank you"),
        ("de89370400440532013000", "[iban]"),
        ("a.b+c@mail.example.org, please", "[e-mail], please"),
        ("+1 (555) 123-4567", "[phone]"),
        ("sip:+4930123456@example.org", "sip:[e-mail]"),
        ("0049 30 1234567", "[phone]"),
        ("call 555-123-4567 or (555) 123-4567", "call [phone] or [phone]"),
        ("030 / 1234567", "030 / 1234567"),
        ("030 1234567", "[phone]"),
    ],
)  # fmt: skip
def test_personal_data_is_replaced_by_the_rules_label(text: str, redacted: str) -> None:
    """And nothing around it, such as the date and the code behind a card."""
    assert masked(text, finders_of(STORED)) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112", "1764399080123", "1764399080123456789", "1764399080", "2026-11-29T06:51:20.123456Z",
        "550e8400-e29b-41d4-a716-446655440000", "a4111111111111111f", "0.4111111111111111", "10.0.0.255:7717",
        "in 2027 it cost 1,200 dollars at 10:30", "gpt-4o-mini-2024-07-18", "me@here", "DE00370400440532013000",
        "01-02-2026", "3.14159265358979", "1e1000000000", "[card] and [phone]",
    ],
)  # fmt: skip
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    """Times since 1970 in any unit, ids, versions, addresses of machines, wrong check digits."""
    assert find(text, finders_of(STORED)) == []


_TEXTS = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            ["4111 1111 1111 1111", "4111111111111111", "a@b.cc", "+15551234567", "DE89370400440532013000", "ORD-1",
             "078-05-1120", "one two three four five six seven", "secret", "[card]", "\ud800", "555-123-4567", " "]
        ),
    ),
    max_size=8,
).map("".join)  # fmt: skip


@given(_TEXTS)
def test_redacting_twice_is_redacting_once(text: str) -> None:
    """Whatever stands beside each other, and with labels in the text already."""
    once = masked(text, finders_of(EVERYTHING))
    assert masked(once, finders_of(EVERYTHING)) == once


@given(_TEXTS)
def test_what_is_not_found_stays_as_it_is(text: str) -> None:
    """The text is what is found and, in their order, the pieces between."""
    found = find(text, finders_of(EVERYTHING))
    assert all(one.end <= other.start for one, other in pairwise(found))
    pieces, position = [], 0
    for each in found:
        pieces += [text[position : each.start]]
        position = each.end
    rest = masked(text, finders_of(EVERYTHING))
    for piece in (*pieces, text[position:]):
        assert piece in rest
        rest = rest[rest.index(piece) + len(piece) :]


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000 + "!", "4 " * 100_000, "4111 " * 40_000, "(" * 200_000, "one " * 50_000, "a@" * 100_000,
     "DE89 " * 40_000, "+1" * 100_000, "a." * 100_000 + "@"],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_a_hostile_text_is_searched_in_linear_time(text: str) -> None:
    """Also by a pattern that a backtracking engine would not finish in the life of the universe."""
    finders = finders_of(Redaction(tuple(Detector), (("greedy", "(a|a|b)*(a+)+c"),)))
    began = time.process_time()
    find(text, finders)
    assert time.process_time() - began < 4.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x", "NAME=EXPRESSION"), ("Bad Name=a", "NAME=EXPRESSION"), ("card=a", "a name of its own"),
        ("x=(a", "missing )"), ("x=a*", "empty text"), (r"x=(a)\1", "RE2"), ("x=", "NAME=EXPRESSION"),
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_used_says_why(text: str, reason: str) -> None:
    """What has no name, clashes, does not compile, or would be found everywhere."""
    with pytest.raises(ValueError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        named_pattern(text)


@pytest.mark.parametrize("path", ["", "a..b", "a.**", "call_id", "**.a.**.b"])
def test_a_path_that_cannot_be_meant_is_refused(path: str) -> None:
    """Also one of the members that say whose call it is."""
    with pytest.raises(ValueError, match=r"should be names|cannot be redacted"):
        checked_field(path)


def test_patterns_need_re2_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error in place of a traceback where the extra is not installed."""
    monkeypatch.setitem(__import__("sys").modules, "re2", None)
    with pytest.raises(ValueError, match=r"pip install 'callspool\[redaction\]'"):
        compiled("a")

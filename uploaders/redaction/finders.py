"""Finds personal data in a text by its form. Pure, and linear in the length of the text whatever stands in it.

What is found is replaced by a label, such as `[card]`. The pieces between labels are searched each for itself, until
nothing more is found in any: so redacting a text twice is redacting it once.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from uploaders.redaction.options import FIELD, Detector, Redaction, compiled

if TYPE_CHECKING:
    import re2

Spans = Iterator[tuple[int, int]]


class Finder(NamedTuple):
    """One rule."""

    rule: str
    """Its name, in counts and in the label."""
    find: Callable[[str], Spans]
    """Where it stands in a text; matches are not empty and do not overlap."""

    @property
    def label(self) -> str:
        """What stands in its place."""
        return label_of(self.rule)


class Found(NamedTuple):
    """What a rule found: from where to where in the text."""

    start: int
    end: int
    rule: str


def label_of(rule: str) -> str:
    """What a rule puts in place of what it found."""
    return _LABELS.get(rule, f"[{rule}]")


_LABELS: Final = {
    Detector.EMAIL: "[e-mail]",
    Detector.SSN: "[number]",
    Detector.SPOKEN: "[number]",
    FIELD: "[redacted]",
}
_LABEL: Final = re.compile(r"\[[a-z][a-z0-9_-]{0,31}\]")
"""A label of any rule: a barrier that no match crosses."""


def find(text: str, finders: Sequence[Finder]) -> list[Found]:
    """All that the rules find, in order. Where two overlap, the one of the earlier finder counts."""
    found: list[Found] = []
    pieces = list(_between(text, [match.span() for match in _LABEL.finditer(text)], 0, len(text)))
    while pieces:
        start, end = pieces.pop()
        piece = text[start:end]
        for finder in finders:
            spans = [(start + first, start + last) for first, last in finder.find(piece)]
            if spans:
                found += [Found(first, last, finder.rule) for first, last in spans]
                pieces += _between(text, spans, start, end)
                break
    return sorted(found)


def _between(text: str, spans: Sequence[tuple[int, int]], start: int, end: int) -> Iterator[tuple[int, int]]:
    for first, last in (*spans, (end, end)):
        if text[start:first].strip():
            yield start, first
        start = last


def masked(text: str, finders: Sequence[Finder]) -> str:
    """The text with a label in place of all that the rules find."""
    made, position = [], 0
    for start, end, rule in find(text, finders):
        made += [text[position:start], label_of(rule)]
        position = end
    return text if not made else "".join((*made, text[position:]))


def literal(rule: str, word: str) -> Finder:
    """Finds a word that is known, in any case, where no other letters touch it."""
    return Finder(rule, _by_pattern(re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)))


@lru_cache(maxsize=64)
def finders_of(redaction: Redaction) -> tuple[Finder, ...]:
    """The rules that look at texts. Raises `ValueError` for a pattern that cannot be used."""
    named = [Finder(detector.value, _DETECTORS[detector]) for detector in Detector if detector in redaction.detect]
    own = [Finder(name, _own(expression)) for name, expression in redaction.patterns]
    return (*own, *named)


# E-mail: found by its `@`, so that a long word without one costs nothing.

_DOMAIN: Final = re.compile(r"@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_LOCAL: Final = re.compile(r"[\w.+-]{1,64}\Z")


def _emails(text: str) -> Spans:
    position = 0
    for domain in _DOMAIN.finditer(text) if "@" in text else ():
        beginning = max(position, domain.start() - 64)
        local = _LOCAL.search(text[beginning : domain.start()])
        if local:
            position = domain.end()
            yield beginning + local.start(), position


# Cards: of a run of groups of digits any groups beside each other may be one, since its date and code often follow it.

_GROUPS: Final = re.compile(r"[0-9]+(?:[ \u00a0-][0-9]+)*")
_GROUP: Final = re.compile(r"[0-9]+")
_ISSUERS: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11,16}|35\d{14,17}|6(?:011|22\d|4[4-9]\d|5\d\d)\d{12,15}"
    r"|(?:50|5[6-9]|6\d)\d{11,17}|220[0-4]\d{12,15}"
)
"""Visa, Mastercard, American Express, Diners, JCB, Discover and UnionPay, Maestro, Mir: their beginnings and lengths.
Times in milliseconds or nanoseconds since 1970 begin with 1, and are none of them."""
_NO_ISSUER: Final = "01789"
_SHORTEST_CARD, _LONGEST_CARD = 13, 19


_LuhnSums = tuple[Sequence[int], Sequence[int]]
"""Up to each digit, the sum of all before it; those at even places are doubled in the first, at odd ones in the second.
So that looking at every possible beginning costs no more than looking at every digit."""


def _cards(text: str) -> Spans:
    for run in _GROUPS.finditer(text):
        if run.end() - run.start() < _SHORTEST_CARD or _touches_word(text, run.start(), run.end()):
            continue
        groups = [group.span() for group in _GROUP.finditer(text, run.start(), run.end())]
        digits = "".join(text[start:end] for start, end in groups)
        sums = _luhn_sums(digits)
        begins = [0, *accumulate(end - start for start, end in groups)]
        ends = {end: number for number, end in enumerate(begins[1:])}
        first = 0
        while first < len(groups):
            last = _card_from(digits, begins[first], ends, sums)
            if last is None:
                first += 1
            else:
                yield groups[first][0], groups[last][1]
                first = last + 1


def _card_from(digits: str, begin: int, ends: Mapping[int, int], sums: _LuhnSums) -> int | None:
    """The last group of the longest card that begins there; `ends` says which group ends where."""
    if digits[begin] in _NO_ISSUER:
        return None
    for end in range(begin + _LONGEST_CARD, begin + _SHORTEST_CARD - 1, -1):
        if end in ends and _is_luhn(sums, begin, end) and _ISSUERS.fullmatch(digits, begin, end):
            return ends[end]
    return None


def _touches_word(text: str, start: int, end: int) -> bool:
    """Whether letters stand right before or behind it, as in an id, or it is the fraction of a number."""
    before, behind = text[start - 1 : start], text[end : end + 1]
    return before.isalnum() or behind.isalnum() or (before == "." and text[start - 2 : start - 1].isdigit())


def _luhn_sums(digits: str) -> _LuhnSums:
    plain = list(map(int, digits))
    even, odd = (plain.copy() for _ in range(2))
    even[::2] = [_DOUBLED[digit] for digit in plain[::2]]
    odd[1::2] = [_DOUBLED[digit] for digit in plain[1::2]]
    return tuple(accumulate(even, initial=0)), tuple(accumulate(odd, initial=0))


_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def _is_luhn(sums: _LuhnSums, begin: int, end: int) -> bool:
    """ISO/IEC 7812-1: whether the last digit is the check digit of those before it, every second of them doubled."""
    of = sums[end % 2]
    return (of[end] - of[begin]) % 10 == 0


# IBANs.

_IBAN_BEGINS: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}")
_IBAN_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""The registry of ISO 13616, release 99."""
_REST: Final = {
    length: re.compile(rf"(?:[ \u00a0-]?[A-Za-z0-9]){{{length - 4}}}(?![A-Za-z0-9])")
    for length in {*_IBAN_LENGTHS.values()}
}


def _ibans(text: str) -> Spans:
    position = 0
    for begins in _IBAN_BEGINS.finditer(text):
        length = _IBAN_LENGTHS.get(begins[0][:2].upper())
        if length is None or begins.start() < position:
            continue
        rest = _REST[length].match(text, begins.end())
        if rest and is_iban(begins[0] + rest[0]):
            position = rest.end()
            yield begins.start(), position


def is_iban(text: str) -> bool:
    """Whether it has its country's length and valid check digits (ISO 7064, MOD 97-10), whatever stands between."""
    compact = "".join(filter(str.isalnum, text)).upper()
    if not compact.isascii() or _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(each, 36)) for each in compact[4:] + compact[:4])) % 97 == 1


# What else is a matter of form.

_BEFORE, _BEHIND = r"(?<![0-9A-Za-z+.])", r"(?![0-9A-Za-z]|\.[0-9])"
_PHONES: Final = re.compile(
    rf"(?:(?<![0-9A-Za-z])\+|{_BEFORE}00)[1-9](?:[ ().\-/\u00a0]{{0,2}}[0-9]){{6,14}}{_BEHIND}"
    rf"|{_BEFORE}1?[2-9][0-9]{{2}}[2-9][0-9]{{6}}{_BEHIND}"
    rf"|{_BEFORE}(?:1[ .\-\u00a0]?)?(?:\([2-9][0-9]{{2}}\)[ .\-\u00a0]?|[2-9][0-9]{{2}}[ .\-\u00a0])"
    rf"[0-9]{{3}}[ .\-\u00a0]?[0-9]{{4}}{_BEHIND}"
    rf"|{_BEFORE}\(?0[1-9][0-9]{{1,4}}\)?(?:[ .\-/\u00a0]?[0-9]){{5,9}}{_BEHIND}"
)
"""E.164 behind `+` or `00`; ten digits as North America has them; a national 0. Unix times begin with 1: no match."""
_SSN: Final = re.compile(r"(?<![\w-])[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}(?![\w-])")
_SPOKEN: Final = re.compile(
    r"\b(?:(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|double|triple)[\s,-]{1,4}){6,40}"
    r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)\b",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"(?<!\w)\+?\d(?:[\d\s().-]{5,30})\d(?!\w)")
_DIGITS: Final = 7
"""The shortest number of a telephone that is worth masking; years, prices and times are shorter."""


def _numbers(text: str) -> Spans:
    for found in _NUMBER.finditer(text):
        if sum(map(str.isdigit, found[0])) >= _DIGITS:
            yield found.span()


def _by_pattern(pattern: "re.Pattern[str]") -> Callable[[str], Spans]:
    return lambda text: (found.span() for found in pattern.finditer(text))


_DETECTORS: Final[dict[Detector, Callable[[str], Spans]]] = {
    Detector.CARD: _cards,
    Detector.IBAN: _ibans,
    Detector.EMAIL: _emails,
    Detector.PHONE: _by_pattern(_PHONES),
    Detector.SSN: _by_pattern(_SSN),
    Detector.SPOKEN: _by_pattern(_SPOKEN),
    Detector.NUMBER: _numbers,
}


# Own patterns, by RE2: an automaton whose time is linear in the text, whatever the pattern, and that holds no lock.

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_HALF: Final = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""The same as JSON inside of a text may hold it."""
_WINDOW_BYTES: Final = 1 << 20
_SYNTAX: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|.", re.DOTALL)
"""An expression in pieces: what is escaped, a class of characters, or one character."""
_OF_A_WHOLE: Final = frozenset({"^", "$", r"\A", r"\z", r"\Z", r"\Q", r"\C"})
"""What means something else in a text alone than where the text stands among others, or might hide that."""


class OwnPatterns:
    """Where in a document own patterns match, many texts at once: in most of these there is nothing.

    A text that none of these matches touches holds no match. One that is touched may hold one, or may not: where it
    begins and ends in the document is nothing to a match.
    """

    def __init__(self, document: memoryview, expressions: Sequence[str]) -> None:
        self._document = document
        self._patterns = [_longest(expression) for expression in expressions]
        self._begin = self._end = 0
        self._matches: list[tuple[int, int]] = []
        self._next = 0

    def touch(self, start: int, end: int) -> bool:
        """Whether a match does, in the bytes from here to there; asked in the order of the document."""
        if not self._begin <= start <= end <= self._end:
            if not self._patterns:
                return False
            self._look(start, max(end, min(start + _WINDOW_BYTES, len(self._document))))
        while self._next < len(self._matches) and self._matches[self._next][1] <= start:
            self._next += 1
        return self._next < len(self._matches) and self._matches[self._next][0] < end

    def match(self, text: str) -> bool:
        """Whether any matches in a text alone."""
        data = _SURROGATE.sub("\ufffd", text).encode()
        return any(pattern.search(data) is not None for pattern in self._patterns)

    def _look(self, begin: int, end: int) -> None:
        self._begin, self._end, self._next, self._matches = begin, end, 0, []
        data = _HALF.sub(b"\xef\xbf\xbd", bytes(self._document[begin:end]))
        for first, last in sorted(found.span() for each in self._patterns for found in each.finditer(data)):
            if self._matches and begin + first < self._matches[-1][1]:
                self._matches[-1] = self._matches[-1][0], max(self._matches[-1][1], begin + last)
            else:
                self._matches.append((begin + first, begin + last))


def matches_anywhere(expression: str) -> bool:
    """Whether a pattern matches in a document wherever it matches in one of its texts."""
    return _OF_A_WHOLE.isdisjoint(_SYNTAX.findall(expression))


@lru_cache(maxsize=64)
def _longest(expression: str) -> "re2._Regexp[str]":
    """Finds the longest match at each place, so that none is hidden behind an empty one."""
    return compiled(expression, longest=True)


def _own(expression: str) -> Callable[[str], Spans]:
    pattern = compiled(expression)

    def spans(text: str) -> Spans:
        # The library takes no half of a surrogate pair, which is one character as its replacement is.
        for found in pattern.finditer(_SURROGATE.sub("\ufffd", text)):
            if found.end() > found.start():
                yield found.span()

    return spans

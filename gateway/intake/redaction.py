"""Redacts personal data in a call log before anything of it is stored. Pure.

Texts are searched by the rules, escapes and JSON inside of texts included; so are whole numbers of ten digits and more.
Values that stand where a rule of fields says are replaced whatever they are. Names of members are not looked at, nor
are the members that say whose call it is and which. All other bytes stay as they came.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from gateway.calllog.toplevel import Scratch, TopLevel
from uploaders.redaction.finders import OwnPatterns, find, finders_of, label_of, matches_anywhere
from uploaders.redaction.options import FIELD, IDENTIFYING, Detector, Redaction

_EDITS_KEPT: Final = 10_000
"""Above it they are made twice: a giant may hold more than there is memory for."""
_NESTED_MOST: Final = 4
"""Levels of JSON inside texts inside JSON; below them a text is a text."""
_DEPTH_MOST: Final = 100
"""Names in a path: below them a member counts as if it stood there."""
_NOTHING_ELSE: Final = frozenset({Detector.CARD, Detector.IBAN, Detector.EMAIL, Detector.PHONE, Detector.SSN})

_TEXT: Final = rb'"((?:[^"\\]++|\\.)*+)"([ \t\n\r]*+:)?'
_texts = re.compile(_TEXT + rb"|(?<![0-9.eE+-])([0-9]{10,40})(?![0-9.eE])", re.DOTALL).finditer
"""Texts, and long whole numbers. The second group is there for a name."""
_tokens = re.compile(_TEXT + rb"|(-?[0-9][0-9.eE+-]*+|[a-zA-Z-]++)|([{\[])|([}\]])", re.DOTALL).finditer
_promising = re.compile(rb"@|(?:[0-9][^0-9]{0,8}){7}").search
"""What there has to be for one of the rules in `_NOTHING_ELSE`."""
_units = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]", re.DOTALL
).finditer
"""The characters of a JSON text as they are written."""
_REDACTED: Final = b'"%b"' % label_of(FIELD).encode()
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


class Edit(NamedTuple):
    """These bytes of a document are replaced."""

    start: int
    end: int
    made: bytes
    rules: tuple[str, ...]
    """By which rules; in one text several may have found something."""


class _Document:
    """A text with JSON, and where own patterns match in it."""

    def __init__(self, text: memoryview, own: Sequence[str]) -> None:
        self.text = text
        self.own = OwnPatterns(text, own)


class Redactor:
    """Applies one set of rules."""

    def __init__(self, redaction: Redaction) -> None:
        self._finders = finders_of(redaction)
        self._own = tuple([expression for _, expression in redaction.patterns])
        self._detects = bool(redaction.detect)
        together = all(map(matches_anywhere, self._own))
        self._all_texts = not together or not _NOTHING_ELSE.issuperset(redaction.detect)
        self._fields = [tuple(path.split(".")) for path in redaction.fields]
        self._by_last: dict[str, list[tuple[str, ...]]] = {}
        for rule in self._fields:
            self._by_last.setdefault(rule[-1], []).append(rule)

    def redact(self, top: TopLevel, scratch: Scratch) -> tuple[bytes | memoryview, Mapping[str, int]]:
        """The document with all that the rules find replaced, and how often by each rule.

        With nothing found it is the document itself, else a copy in a buffer of `scratch`.
        """
        counts: Counter[str] = Counter()
        size, kept, number = len(top.text), list[Edit](), 0
        for edit in self.edits(top):
            counts.update(edit.rules)
            size += len(edit.made) - (edit.end - edit.start)
            number += 1
            if number <= _EDITS_KEPT:
                kept.append(edit)
        if not number:
            return top.text, counts
        text, copy = memoryview(top.text), memoryview(scratch(size))
        read = written = 0
        for edit in kept if number <= _EDITS_KEPT else self.edits(top):
            for piece in (text[read : edit.start], edit.made):
                copy[written : written + len(piece)] = piece
                written += len(piece)
            read = edit.end
        copy[written:size] = text[read:]
        return copy, counts

    def edits(self, top: TopLevel) -> Iterator[Edit]:
        """What is replaced, in the order of the document."""
        document = _Document(memoryview(top.text), self._own)
        for member in top.members():
            if member.name not in IDENTIFYING:
                yield from self._value(document, member.value_start, member.end, (member.name,), 0)

    def _value(self, document: "_Document", start: int, end: int, path: tuple[str, ...], level: int) -> Iterator[Edit]:
        if path and self._is_field(path):
            yield from _replaced(document.text, start, end)
        elif any(_reaches(rule, path) for rule in self._fields):
            yield from self._walk(document, start, end, path, level)
        elif self._finders:
            for token in _texts(document.text, start, end):
                if token.end(3) >= 0:
                    yield from self._number(document, token)
                elif token.end(2) < 0:
                    yield from self._text(document, *token.span(1), (), level)

    def _walk(self, document: "_Document", start: int, end: int, path: tuple[str, ...], level: int) -> Iterator[Edit]:
        """As `_value`, with the path of each value: that of the names above it; lists have none."""
        above: list[tuple[str, ...]] = []
        here, there = path, path
        replaced_from, replaced_depth = -1, 0
        for token in _tokens(document.text, start, end):
            if token.end(2) >= 0:
                there = (*here[:_DEPTH_MOST], _name(token[1]))
            elif token.end(4) >= 0:
                if replaced_from < 0 and there is not here and self._is_field(there):
                    replaced_from, replaced_depth = token.start(), len(above)
                above.append(here)
                here = there
            elif token.end(5) >= 0:
                here = there = above.pop()
                if replaced_from >= 0 and len(above) == replaced_depth:
                    yield from _replaced(document.text, replaced_from, token.end())
                    replaced_from = -1
            else:
                if replaced_from < 0:
                    if there is not here and self._is_field(there):
                        yield from _replaced(document.text, *token.span())
                    elif token.end(1) >= 0:
                        yield from self._text(document, *token.span(1), there, level)
                    elif self._finders and len(token[3]) >= 10 and token[3].isdigit():
                        yield from self._number(document, token)
                there = here

    def _number(self, document: "_Document", token: "re.Match[bytes]") -> Iterator[Edit]:
        """A whole number that one of the rules finds something in becomes a text."""
        if not (self._all_texts or self._detects or document.own.touch(*token.span(3))):
            return
        found = find(token[3].decode(), self._finders)
        if found:
            yield Edit(*token.span(3), _quoted(label_of(found[0].rule)), (found[0].rule,))

    def _text(self, document: "_Document", start: int, end: int, path: tuple[str, ...], level: int) -> Iterator[Edit]:
        """The content of one JSON text, between its quotes."""
        raw = bytes(document.text[start:end])
        by_path = bool(path) and any(_reaches(rule, path) for rule in self._fields)
        worth = self._all_texts or (self._detects and _promising(raw)) or (by_path and b"{" in raw)
        escaped = b"\\" in raw
        if not worth and not (escaped and self._own) and not document.own.touch(start, end):
            return
        written = raw.decode()
        plain: str = json.loads(f'"{written}"', strict=False) if escaped else written
        found = self._nested(plain, path, level) if level < _NESTED_MOST else None
        if found is None:
            if not worth and escaped and not document.own.match(plain):
                return
            found = [(first, last, label_of(rule), (rule,)) for first, last, rule in find(plain, self._finders)]
        if not found:
            return
        places = None if len(plain) == len(written) else [*(unit.start() for unit in _units(written)), len(written)]
        made, position = [], 0
        for first, last, label, _ in found:
            begin, stop = (first, last) if places is None else (places[first], places[last])
            made += [written[position:begin], json.dumps(label)[1:-1]]
            position = stop
        made.append(written[position:])
        yield Edit(start, end, "".join(made).encode(), tuple(rule for *_, rules in found for rule in rules))

    def _nested(
        self, plain: str, path: tuple[str, ...], level: int
    ) -> list[tuple[int, int, str, Sequence[str]]] | None:
        """The edits of JSON in a text, as places of its characters; None where there is none."""
        if plain.lstrip()[:1] not in {"{", "["}:
            return None
        inner = plain.encode("utf-8", "surrogatepass")
        try:
            _decode_raw(inner)
        except (msgspec.DecodeError, RecursionError):
            try:
                json.loads(plain)
            except (ValueError, RecursionError):
                return None
        edits = self._value(_Document(memoryview(inner), self._own), 0, len(inner), path, level + 1)
        return list(_in_characters(inner, edits))

    def _is_field(self, path: tuple[str, ...]) -> bool:
        rules = (*self._by_last.get(path[-1], ()), *self._by_last.get("*", ()))
        return any(_fits(rule, path) for rule in rules)


@lru_cache(maxsize=64)
def redactor_of(redaction: Redaction) -> Redactor:
    """The redactor of these rules, made once."""
    return Redactor(redaction)


def _in_characters(text: bytes, edits: Iterable[Edit]) -> Iterator[tuple[int, int, str, Sequence[str]]]:
    """The places of edits counted in characters."""
    position = characters = 0
    for edit in edits:
        start = characters + len(text[position : edit.start].decode("utf-8", "surrogatepass"))
        characters = start + len(text[edit.start : edit.end].decode("utf-8", "surrogatepass"))
        position = edit.end
        yield start, characters, edit.made.decode(), edit.rules


def _replaced(text: memoryview, start: int, end: int) -> Iterator[Edit]:
    """A value that is replaced for where it stands, unless it was before."""
    if text[start:end] != _REDACTED:
        yield Edit(start, end, _REDACTED, (FIELD,))


def _quoted(label: str) -> bytes:
    return b'"%b"' % label.encode()


def _name(written: bytes) -> str:
    """A member's name as text."""
    name: str = json.loads(b'"%b"' % written) if b"\\" in written else written.decode()
    return name


def _fits(rule: Sequence[str], path: Sequence[str]) -> bool:
    """Whether the path is one that the rule names."""
    if not rule:
        return not path
    if rule[0] == "**":
        return _fits(rule[1:], path) or (bool(path) and _fits(rule, path[1:]))
    return bool(path) and rule[0] in {"*", path[0]} and _fits(rule[1:], path[1:])


def _reaches(rule: Sequence[str], path: Sequence[str]) -> bool:
    """Whether the rule may name something below this path."""
    if not path or not rule:
        return bool(rule)
    return rule[0] == "**" or (rule[0] in {"*", path[0]} and _reaches(rule[1:], path[1:]))

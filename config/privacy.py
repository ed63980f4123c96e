"""The settings of privacy: redaction of call logs before they are stored, and what an erasure leaves behind."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from config.types import Choice, Duration, Shown, Table, Words
from config.values import DAY
from uploaders.redaction.options import Detector, Redaction, checked_field, named_pattern


def _patterns(value: object) -> object:
    """Patterns from a list, or from the lines of a text."""
    given = value.splitlines() if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        raise ValueError("should be a list of NAME=EXPRESSION")
    pairs = [named_pattern(each.strip()) for each in given if each.strip() not in {"", "none"}]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("should give each pattern a name of its own")
    return tuple(f"{name}={expression}" for name, expression in pairs)


def _detectors(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if word not in set(Detector):
            raise ValueError(f"knows {', '.join(Detector)}, and not {word}")
    return tuple(dict.fromkeys(words))


def _fields(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(checked_field, paths)))


Detectors = Annotated[Words, AfterValidator(_detectors)]
Fields = Annotated[Words, AfterValidator(_fields)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns), Shown(lambda patterns: ", ".join(patterns) or "none")]


class RedactionSettings(Table):
    """Values to replace in call logs before anything is stored; by default none."""

    detect: Detectors = ()
    """Values to detect by form and replace: any of `card`, `iban`, `email`, `phone`, `ssn`, `spoken`, `number`."""
    fields: Fields = ()
    """Paths of members whose values are always replaced: `customer.phone`, `**.date_of_birth`."""
    patterns: Patterns = ()
    """Your patterns as `NAME=EXPRESSION` in RE2 syntax, one per line in the variable; need `callspool[redaction]`."""

    @property
    def rules(self) -> Redaction | None:
        """The rules; None if there are none."""
        if not (self.detect or self.fields or self.patterns):
            return None
        return Redaction(tuple(map(Detector, self.detect)), tuple(map(named_pattern, self.patterns)), self.fields)


def _country(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch("[A-Z]{2}", value):
        raise ValueError("should be a country's two capital letters, such as DE or US")
    return value


class LaterPosts(StrEnum):
    """What happens to a post of an erased call."""

    REFUSE = "refuse"
    """It is answered 410."""
    ACCEPT = "accept"
    """It is accepted like any other."""


class ErasureSettings(Table):
    """What `callspool erase` leaves behind: that a call was erased."""

    later_posts: Annotated[LaterPosts, Choice] = LaterPosts.REFUSE
    """Posts of a call that was erased: `refuse` (410) or `accept`."""
    keep: Duration = 30 * DAY
    """How long posts of an erased call are refused; a keyed hash of its id is kept that long."""
    country: Annotated[str | None, BeforeValidator(_country)] = None
    """Country of numbers without a country code, such as `DE`, when the calls of a number are erased."""

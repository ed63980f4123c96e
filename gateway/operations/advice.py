"""Classifies the reasons of dead letters, and has advice for each kind. Pure.

Reasons are texts of uploaders, the dispatcher and endpoints; the kinds are few, so that they can label a metric.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class ReasonKind(StrEnum):
    """What made a delivery a dead letter."""

    TOO_LARGE = "too_large"
    """Its size alone was refused."""
    UNKNOWN_CALL = "unknown_call"
    """A detail or a notice about a call that the endpoint does not know."""
    TOKEN = "token"  # a word, and no secret
    """The token that it was to be sent with is gone, or cannot be sent."""
    UNREADABLE = "unreadable"
    """Its payload is damaged in the spool."""
    WRONG_KIND = "wrong_kind"
    """The destination does not accept this form."""
    GIVEN_UP = "given_up"
    """It failed for too long, while others were delivered."""
    REFUSED = "refused"
    """The destination rejected it."""
    OTHER = "other"
    """None of these."""


_SIGNS = (
    (
        ReasonKind.TOO_LARGE,
        r"bytes were sent;|longer than max_(?:request|message)_bytes|entity ?too ?large|accept an object of this size",
    ),
    (ReasonKind.UNKNOWN_CALL, r"call log not found"),
    (ReasonKind.TOKEN, r"own token is no longer stored|the token contains characters"),
    (ReasonKind.UNREADABLE, r"\bchunk \d+ of record|a stored frame|has no \w+ to make its|a notice without an object"),
    (ReasonKind.WRONG_KIND, r"does not accept the form (whole|core|detail|reduced|notice)\b|no longer reduces details"),
    (ReasonKind.GIVEN_UP, r"^given up after"),
    (ReasonKind.REFUSED, r"\bHTTP 4\d\d"),
)
_KINDS = tuple((kind, re.compile(sign, re.IGNORECASE)) for kind, sign in _SIGNS)

ADVICE = {
    ReasonKind.TOO_LARGE: "Set when_too_large of the destination and replay, or reroute it to a bucket.",
    ReasonKind.UNKNOWN_CALL: "Check whether its core arrived there; replay the core first, then this.",
    ReasonKind.TOKEN: "Give it a key with `callspool deliveries replace-token`, then replay.",
    ReasonKind.UNREADABLE: "Its payload cannot be read: check the disk with `callspool fsck`; discard what is lost.",
    ReasonKind.WRONG_KIND: "Reroute it to a destination that accepts its form.",
    ReasonKind.GIVEN_UP: "Replay it once the destination accepts it; `callspool dead show` has the last reason.",
    ReasonKind.REFUSED: "Fix what the response reports, at the endpoint or in its settings, then replay.",
    ReasonKind.OTHER: "Inspect it with `callspool dead show`, then replay or discard it.",
}
"""What to do, by kind."""


def kind_of(reason: str | None) -> ReasonKind:
    """What this reason is about."""
    return next((kind for kind, sign in _KINDS if sign.search(reason or "")), ReasonKind.OTHER)


def advice_for(reason: str | None) -> str:
    """What to do about this reason."""
    return ADVICE[kind_of(reason)]


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many dead letters are of one kind, and the reason that most of them have."""

    kind: ReasonKind
    count: int
    example: str


def by_kind(reasons: Iterable[Mapping[str, int]]) -> tuple[ReasonCount, ...]:
    """Reasons and how often each was met, put together by kind, the most frequent kind first."""
    counts: Counter[str] = Counter()
    for some in reasons:
        counts.update(some)
    kinds: dict[ReasonKind, Counter[str]] = {}
    for reason, count in counts.items():
        kinds.setdefault(kind_of(reason), Counter())[reason] += count
    found = [ReasonCount(kind, of_kind.total(), of_kind.most_common(1)[0][0]) for kind, of_kind in kinds.items()]
    return tuple(sorted(found, key=lambda one: (-one.count, one.kind)))

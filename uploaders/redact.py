"""Redaction: credentials are masked in all texts that are logged, stored or shown, by one set of rules.

A reason for a failure is an excerpt: short, on one line, and redacted.
"""

import re
from collections.abc import Iterable

EXCERPT_CHARACTERS = 160
_LOOKED_AT = 4096
"""Characters of a text that an excerpt is made of: an endpoint may answer with 64 KiB."""
MASK = "***"

_NAMED = (
    r"((?:token|api[_-]?key|authorization|passw(?:or)?d|passphrase|secret|signature|credentials?|cookie)"
    r"(?![_-]?(?:s|ids?|counts?)\b)[\w-]{0,40}\\{0,8}[\"']?\s{0,8}[:=]\s{0,8}"
)
"""The name of a credential up to its value; `total_tokens` and `token_id` are none."""
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(://)[^/?#@\s]{1,1024}@"), rf"\1{MASK}@"),
    (re.compile(r"([?&;](?:sig|code|key|ticket)=)[^&;#\s\"'<>]+", re.IGNORECASE), rf"\1{MASK}"),
    # A quoted value, also in JSON inside of JSON (`\"token\": \"...\"`), up to the quote that ends it or to the end.
    (
        re.compile(
            _NAMED + r")(?P<quote>\\{0,8}[\"'])(?:(?!(?P=quote)).)*(?P<end>(?P=quote)?)", re.IGNORECASE | re.DOTALL
        ),
        rf"\1\g<quote>{MASK}\g<end>",
    ),
    (re.compile(_NAMED + r"(?:(?:bearer|basic)\s+)?)[^\s\"',;&<>}\\]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
)


def redact(text: str) -> str:
    """The text with tokens, credentials and secrets of addresses masked."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def excerpt(text: str, secrets: Iterable[str] = ()) -> str:
    """The beginning of `text` on one line, redacted; the given `secrets` are masked wherever they stand."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    text = redact(text[:_LOOKED_AT])
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"

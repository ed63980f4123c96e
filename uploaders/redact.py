"""What a failure is called: short, on one line, and without secrets. It is stored, logged and shown."""

import re
from collections.abc import Iterable

EXCERPT_CHARACTERS = 160
HIDDEN = "***"

_CREDENTIAL = re.compile(
    r"""((?:token|api[_-]?key|authorization|password|secret|signature|credential)[\w-]*["']?\s*[:=]\s*["']?)
        (?:(?:bearer|basic)\s+)?[^\s"',;&<>}]+""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)


def excerpt(text: str, secrets: Iterable[str] = ()) -> str:
    """The beginning of `text` on one line, with the given secrets and what looks like a credential hidden."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    text = _BEARER.sub(rf"\1 {HIDDEN}", _CREDENTIAL.sub(rf"\1{HIDDEN}", text))
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= EXCERPT_CHARACTERS else text[: EXCERPT_CHARACTERS - 1] + "…"

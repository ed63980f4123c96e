"""Options of endpoints that the configuration checks: the rules of `delivered_when`. Pure."""

import re
from dataclasses import dataclass

import msgspec

_RULE = re.compile(r"\s*(!?)\s*(/[^\s=!]*)\s*(?:(==|!=)\s*(\S.*?))?\s*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition of `delivered_when`: a JSON pointer (RFC 6901), alone or compared with a JSON value.

    /stored               it is there, and neither null, false, zero nor empty
    !/errors              it is not there, or one of these
    /status == "stored"   it is there and equal
    /status != "failed"   it is not there, or different
    """

    text: str
    path: tuple[str, ...]
    negated: bool
    value: bytes | None
    """What it is compared with, as compact JSON; None where it only has to be there."""


def parse_rule(text: str) -> Rule:
    """A condition as it is written. Raises `ValueError`, saying what would be right."""
    match = _RULE.fullmatch(text)
    if match is None or (match[1] and match[3]):
        raise ValueError('should be like "/stored", "!/errors", "/status == \\"stored\\"" or "/code != 3"')
    value = None
    if match[4] is not None:
        try:
            value = msgspec.json.encode(msgspec.json.decode(match[4]))
        except msgspec.DecodeError as error:
            raise ValueError(f"{match[4]} is not a JSON value (texts stand in quotes)") from error
    path = tuple(part.replace("~1", "/").replace("~0", "~") for part in match[2].split("/")[1:])
    return Rule(text.strip(), path, match[1] == "!" or match[3] == "!=", value)

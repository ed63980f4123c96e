"""What of details an endpoint is sent, and how goes on what it refuses as too large."""

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator

from config.layers import Layer, first_origin, readable
from config.problems import Problem
from config.values import Shown


class DetailSent(StrEnum):
    """What of details an endpoint is sent."""

    FULL = "full"
    """All."""
    CRITICAL = "critical"
    """Of the spans only the slow ones, the failed ones and tool calls."""
    TOP_N = "top_n"
    """Of the spans only the slowest."""
    NONE = "none"
    """Nothing: the core is all that it gets."""


class WayOn(StrEnum):
    """How a delivery goes on that an endpoint refuses as too large."""

    PRESIGNED = "presigned"
    """The whole call log, through an upload address that the endpoint gives."""
    S3 = "s3"
    """The detail, into the bucket that notifies the endpoint."""
    CRITICAL = "critical"
    """Reduced as by `detail = "critical"`; the full detail stays as a dead letter."""
    TOP_N = "top_n"
    """Reduced as by `detail = "top_n"`; the full detail stays as a dead letter."""


REDUCTIONS = frozenset({WayOn.CRITICAL, WayOn.TOP_N})


def read_ways_on(value: object) -> object:
    """Ways on from a list, or from a text with commas. Raises ValueError for what cannot be followed in this order."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError(f"should be a list of {_known()}")
    words = [str(each).strip().lower() for each in given]
    words = [word for word in words if word not in {"", "none"}]
    if not set(words) <= set(WayOn):
        raise ValueError(f"should be a list of {_known()}")
    if len(words) > 2 or (len(words) == 2 and (words[0] != WayOn.PRESIGNED or words[1] == WayOn.PRESIGNED)):
        raise ValueError('should be one of them, with "presigned" before it if that is to be tried first')
    return tuple(WayOn(word) for word in words)


def format_ways_on(ways: tuple[WayOn, ...]) -> str:
    """As people write them."""
    return ", ".join(ways) or "none"


WaysOn = Annotated[tuple[WayOn, ...], BeforeValidator(read_ways_on), Shown(format_ways_on)]
"""One after the other, as far as each is refused too."""


def bucket_problems(layer: Layer) -> Iterator[Problem]:
    """Endpoints whose details are to go on to a bucket, where no bucket notifies them."""
    destinations = layer.tree["destinations"]
    notified = {str(item.get("notify")) for item in destinations if isinstance(item, dict) and item.get("type") == "s3"}
    for index, item in enumerate(destinations):
        if isinstance(item, dict) and _wants_a_bucket(item) and str(item.get("name")) not in notified:
            path = ("destinations", index, "when_too_large")
            yield Problem(
                readable(path, (layer,)),
                "needs a destination of type s3 that notifies this one",
                json.dumps(WayOn.S3),
                first_origin((layer,), path),
            )


def _wants_a_bucket(item: Mapping[str, Any]) -> bool:  # Any: what a file may hold
    try:
        ways = read_ways_on(item.get("when_too_large", ()))
    except ValueError:  # told by the check of the value itself
        return False
    return isinstance(ways, tuple) and WayOn.S3 in ways


def _known() -> str:
    return ", ".join(WayOn)

"""Who notifies whom: a bucket beside an endpoint tells it of each object. A rule between destinations."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from config.layers import Layer, first_origin, readable
from config.problems import Problem

_NOBODY = ("none", "off")


def to_be_notified(destinations: Sequence[Any]) -> list[str]:
    """The names of the endpoints that get details after their cores, and are notified by no bucket yet."""
    taken = {_notified(item) for item in destinations}
    tables = [item for item in destinations if isinstance(item, dict) and item.get("type") == "http"]
    return [str(item["name"]) for item in tables if item.get("name") not in {None, *taken} and _in_two_phases(item)]


def notify_problems(layer: Layer) -> Iterator[Problem]:
    """Buckets that notify what does not exist, what needs no notice, or what another one notifies already."""
    destinations = [item for item in layer.tree["destinations"] if isinstance(item, dict)]
    endpoints = {item.get("name"): item for item in destinations if item.get("type") == "http"}
    taken: dict[str, object] = {}
    for index, item in enumerate(layer.tree["destinations"]):
        named = _notified(item)
        if named is None:
            continue
        advice = _advice(endpoints, named, taken.get(named))
        taken.setdefault(named, item.get("name"))
        if advice:
            path = ("destinations", index, "notify")
            yield Problem(readable(path, (layer,)), advice, json.dumps(named), first_origin((layer,), path))


def _notified(item: object) -> str | None:
    if not isinstance(item, dict) or item.get("type") != "s3":
        return None
    named = item.get("notify")
    return named if isinstance(named, str) and named.strip().lower() not in _NOBODY else None


def _advice(endpoints: Mapping[Any, Mapping[str, Any]], named: str, bucket: object) -> str | None:
    if named not in endpoints:
        known = ", ".join(sorted(str(name) for name in endpoints)) or "there is none"
        return f"should be the name of an http destination: {known}"
    if not _in_two_phases(endpoints[named]):
        return 'should name one with large = "two_phase": this one gets large call logs in another way'
    if bucket is not None:
        return f"should be another: an endpoint is notified by one bucket, and one already does: {bucket}"
    return None


def _in_two_phases(endpoint: Mapping[str, Any]) -> bool:
    return str(endpoint.get("large", "two_phase")).strip().lower() == "two_phase"

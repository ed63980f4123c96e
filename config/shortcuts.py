"""Destinations that environment variables alone can add, and those that `--local` adds.

A further shortcut is a further row in `SHORTCUTS`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from config.destinations.base import bucket_problems
from config.destinations.stores import POSTGRES_SCHEMES
from config.layers import KeyPath, Layer, Problem, first_origin, readable
from config.values import MASK

LOCAL_NAME = "local"
LOCAL_TYPE = "file"
LOCAL_PATH = Path("callspool-data/delivered")
LOCAL_STORE = ("calls", "sqlite", Path("callspool-data/calls.db"))
"""Name, type and path of the store that `--local` adds if there is none."""
_STORE_TYPES = frozenset({"sqlite", "postgres", "clickhouse"})
NOTIFIED = ("http", "kafka")
"""What a bucket can notify of the details that it takes in their place."""
DATABASE_VARIABLE = "CALLSPOOL_DATABASE_URL"
"""The address of a database, perhaps with a password."""


@dataclass(frozen=True, slots=True)
class Shortcut:
    """Variables that together describe one destination.

    The destination exists as soon as the variable `introduced_by` is set; the others add to it. A destination
    of the same name in the file is added to, not doubled.
    """

    name: str
    type: str
    introduced_by: str
    fields: Mapping[str, str]
    """From each variable to the field that it sets."""
    notifies: tuple[str, ...] = ()
    """The types of the destinations one of which it notifies, unless the file says whom."""
    schemes: tuple[str, ...] = ()
    """Where one variable introduces several types: the beginnings of the address that choose this one."""

    def is_chosen(self, environment: Mapping[str, str]) -> bool:
        """Whether the variables introduce a destination of this type."""
        given = environment.get(self.introduced_by)
        return bool(given) and (not self.schemes or str(given).startswith(tuple(f"{each}:" for each in self.schemes)))


SHORTCUTS: tuple[Shortcut, ...] = (
    Shortcut(
        name="endpoint",
        type="http",
        introduced_by="CALLSPOOL_ENDPOINT_URL",
        fields=MappingProxyType({"CALLSPOOL_ENDPOINT_URL": "url", "CALLSPOOL_ENDPOINT_TOKEN": "token"}),
    ),
    Shortcut(
        name="s3",
        type="s3",
        introduced_by="CALLSPOOL_S3_BUCKET",
        fields=MappingProxyType(
            {
                "CALLSPOOL_S3_BUCKET": "bucket",
                "CALLSPOOL_S3_ENDPOINT_URL": "endpoint_url",
                "CALLSPOOL_S3_PREFIX": "prefix",
            }
        ),
        notifies=NOTIFIED,
    ),
    Shortcut(
        name="kafka",
        type="kafka",
        introduced_by="CALLSPOOL_KAFKA_BROKERS",
        fields=MappingProxyType(
            {
                "CALLSPOOL_KAFKA_BROKERS": "brokers",
                "CALLSPOOL_KAFKA_SASL": "sasl",
                "CALLSPOOL_KAFKA_USERNAME": "username",
                "CALLSPOOL_KAFKA_PASSWORD": "password",
                "CALLSPOOL_KAFKA_TLS": "tls",
                "CALLSPOOL_KAFKA_CA_FILE": "ca_file",
                "CALLSPOOL_KAFKA_CERTIFICATE_FILE": "certificate_file",
                "CALLSPOOL_KAFKA_KEY_FILE": "key_file",
            }
        ),
    ),
    Shortcut(
        name="database",
        type="sqlite",
        introduced_by=DATABASE_VARIABLE,
        fields=MappingProxyType({DATABASE_VARIABLE: "path"}),
        schemes=("sqlite",),
    ),
    Shortcut(
        name="database",
        type="postgres",
        introduced_by=DATABASE_VARIABLE,
        fields=MappingProxyType({DATABASE_VARIABLE: "url"}),
        schemes=POSTGRES_SCHEMES,
    ),
    Shortcut(
        name="clickhouse",
        type="clickhouse",
        introduced_by="CALLSPOOL_CLICKHOUSE_URL",
        fields=MappingProxyType({"CALLSPOOL_CLICKHOUSE_URL": "url"}),
    ),
    Shortcut(
        name="pipeline",
        type="pipeline",
        introduced_by="CALLSPOOL_PIPELINE",
        fields=MappingProxyType(
            {
                "CALLSPOOL_PIPELINE": "runs",
                "CALLSPOOL_OPENAI_API_KEY": "token",
                "CALLSPOOL_OPENAI_BASE_URL": "base_url",
                "CALLSPOOL_OPENAI_CHAT_MODEL": "chat_model",
                "CALLSPOOL_OPENAI_EMBEDDING_MODEL": "embedding_model",
            }
        ),
    ),
)
"""In the order in which they add destinations."""


def shortcut_variable(type_name: str, field: str) -> str | None:
    """The variable that sets this field of a destination of this type, if a shortcut has one."""
    for shortcut in SHORTCUTS:
        for variable, named in shortcut.fields.items():
            if (shortcut.type, named) == (type_name, field):
                return variable
    return None


# Puts the destinations of the file, of the shortcut variables and of `--local` into one list.


def with_shortcuts(file: Layer, environment: Mapping[str, str], *, local: bool) -> Layer:
    """The file's layer with the destinations that variables and `--local` add.

    A variable overrides its field in a destination of the shortcut's name that the file already has. A list of
    destinations that is no list is left as it is, for the check of the whole to refuse.
    """
    given = file.tree.get("destinations", [])
    if not isinstance(given, list):
        return file
    destinations = list(given)
    origins: dict[KeyPath, str] = dict(file.origins)
    for shortcut in SHORTCUTS:
        _apply(shortcut, environment, destinations, origins)
    for shortcut in SHORTCUTS:
        if shortcut.is_chosen(environment):
            _notify(shortcut, destinations, origins)
    if local:
        _append(destinations, origins, "--local", name=LOCAL_NAME, type=LOCAL_TYPE, path=str(LOCAL_PATH))
        if not any(isinstance(item, dict) and item.get("type") in _STORE_TYPES for item in destinations):
            name, kind, path = LOCAL_STORE
            _append(destinations, origins, "--local", name=name, type=kind, path=str(path))
    return Layer({**file.tree, "destinations": destinations}, origins)


def destination_problems(layer: Layer, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of the list as a whole: empty, a duplicate name, a variable without its destination."""
    destinations = layer.tree.get("destinations", [])
    if not isinstance(destinations, list):
        return
    names = [item.get("name") for item in destinations if isinstance(item, dict)]
    for name, count in Counter(name for name in names if isinstance(name, str)).items():
        if count > 1:
            yield Problem(key="destinations", value=f'"{name}"', advice=f"{count} have this name: each needs its own")
    yield from notify_problems(layer)
    yield from bucket_problems(layer)
    chosen = {shortcut.introduced_by for shortcut in SHORTCUTS if shortcut.is_chosen(environment)}
    for shortcut in SHORTCUTS:
        if shortcut.introduced_by not in chosen:
            yield from _idle(shortcut, environment, destinations)
    if not destinations:
        yield Problem(
            key="destinations",
            advice=(
                "none is configured: set CALLSPOOL_ENDPOINT_URL to the URL that your agents post to now, "
                "or CALLSPOOL_S3_BUCKET, CALLSPOOL_KAFKA_BROKERS or CALLSPOOL_DATABASE_URL, "
                "or add [[destinations]] to the file; or try callspool out with --local"
            ),
        )


def _apply(
    shortcut: Shortcut, environment: Mapping[str, str], destinations: list[Any], origins: dict[KeyPath, str]
) -> None:
    if shortcut.schemes and not shortcut.is_chosen(environment):
        return
    given = {field: name for name, field in shortcut.fields.items() if environment.get(name)}
    index = next((at for at, item in enumerate(destinations) if _is(shortcut, item)), None)
    if index is None:
        if not environment.get(shortcut.introduced_by):
            return
        index = len(destinations)
        _append(destinations, origins, shortcut.introduced_by, name=shortcut.name, type=shortcut.type)
    values = {field: environment[name] for field, name in given.items()}
    destinations[index] = {**destinations[index], **values}
    origins.update({("destinations", index, field): name for field, name in given.items()})


def _notify(shortcut: Shortcut, destinations: list[Any], origins: dict[KeyPath, str]) -> None:
    """The destination of a shortcut notifies the shortcuts' own endpoint, or else the only one that waits for it."""
    index = next(at for at, item in enumerate(destinations) if _is(shortcut, item))
    if not shortcut.notifies or "notify" in destinations[index]:
        return
    names = to_be_notified(destinations)
    usual = [each.name for each in SHORTCUTS if each.type in shortcut.notifies and each.name in names]
    chosen = usual or (names if len(names) == 1 else [])
    if chosen:
        destinations[index] = {**destinations[index], "notify": chosen[0]}
        origins["destinations", index, "notify"] = shortcut.introduced_by


def _append(destinations: list[Any], origins: dict[KeyPath, str], origin: str, **fields: str) -> None:
    origins.update({("destinations", len(destinations), field): origin for field in fields})
    destinations.append(dict(fields))


def _is(shortcut: Shortcut, item: object) -> bool:
    return isinstance(item, dict) and (item.get("name"), item.get("type")) == (shortcut.name, shortcut.type)


def _idle(shortcut: Shortcut, environment: Mapping[str, str], destinations: list[Any]) -> Iterator[Problem]:
    """Variables that say something about a destination that does not exist."""
    if any(_is(shortcut, item) for item in destinations):
        return
    for variable in shortcut.fields:
        if environment.get(variable) and shortcut.schemes:
            if shortcut is next(each for each in SHORTCUTS if each.introduced_by == variable):
                yield Problem(key=variable, value=MASK, advice="should begin with sqlite:/// or postgresql://")
        elif environment.get(variable):
            advice = f"says nothing without {shortcut.introduced_by}: set that too"
            yield Problem(key=variable, value=MASK, advice=advice)


# Who notifies whom: a bucket beside an endpoint tells it of each object. A rule between destinations.

_NOBODY = ("none", "off")


def to_be_notified(destinations: Sequence[Any]) -> list[str]:
    """The names of the endpoints that get details after their cores, and are notified by no bucket yet."""
    notified = {_notified(item) for item in destinations}
    tables = [item for item in destinations if isinstance(item, dict) and item.get("type") in NOTIFIED]
    return [str(item["name"]) for item in tables if item.get("name") not in {None, *notified} and _in_two_phases(item)]


def notify_problems(layer: Layer) -> Iterator[Problem]:
    """Buckets whose `notify` names no destination, one that needs no notice, or one that another bucket notifies."""
    destinations = [item for item in layer.tree["destinations"] if isinstance(item, dict)]
    endpoints = {item.get("name"): item for item in destinations if item.get("type") in NOTIFIED}
    notifiers: dict[str, object] = {}
    for index, item in enumerate(layer.tree["destinations"]):
        named = _notified(item)
        if named is None:
            continue
        advice = _advice(endpoints, named, notifiers.get(named))
        notifiers.setdefault(named, item.get("name"))
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
        return f"should be the name of an http or kafka destination: {known}"
    if not _in_two_phases(endpoints[named]):
        return 'should name one with large = "two_phase": this one gets large call logs in another way'
    if bucket is not None:
        return f"should be another: an endpoint is notified by one bucket, and one already does: {bucket}"
    return None


def _in_two_phases(endpoint: Mapping[str, Any]) -> bool:
    return str(endpoint.get("large", "two_phase")).strip().lower() == "two_phase"

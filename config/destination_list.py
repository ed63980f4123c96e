"""Puts the destinations of the file, of the shortcut variables and of `--local` into one list."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from config.layers import KeyPath, Layer
from config.masking import MASK
from config.notify import notify_problems, to_be_notified
from config.problems import Problem
from config.shortcuts import LOCAL_NAME, LOCAL_PATH, LOCAL_TYPE, SHORTCUTS, Shortcut
from config.too_large import bucket_problems


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
        if environment.get(shortcut.introduced_by):
            _notify(shortcut, destinations, origins)
    if local:
        _append(destinations, origins, "--local", name=LOCAL_NAME, type=LOCAL_TYPE, path=str(LOCAL_PATH))
    return Layer({**file.tree, "destinations": destinations}, origins)


def destination_problems(layer: Layer, environment: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with the list as a whole: empty, a name twice, a variable that adds to nothing."""
    destinations = layer.tree.get("destinations", [])
    if not isinstance(destinations, list):
        return
    names = [item.get("name") for item in destinations if isinstance(item, dict)]
    for name, count in Counter(name for name in names if isinstance(name, str)).items():
        if count > 1:
            yield Problem(key="destinations", value=f'"{name}"', advice=f"{count} have this name: each needs its own")
    yield from notify_problems(layer)
    yield from bucket_problems(layer)
    for shortcut in SHORTCUTS:
        yield from _idle(shortcut, environment, destinations)
    if not destinations:
        yield Problem(
            key="destinations",
            advice=(
                "there is none: set CALLSPOOL_ENDPOINT_URL to the URL that your agents post to now, "
                "or CALLSPOOL_S3_BUCKET, or add [[destinations]] to the file, or try it out with --local"
            ),
        )


def _apply(
    shortcut: Shortcut, environment: Mapping[str, str], destinations: list[Any], origins: dict[KeyPath, str]
) -> None:
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
    if shortcut.notifies is None or "notify" in destinations[index]:
        return
    names = to_be_notified(destinations)
    usual = [each.name for each in SHORTCUTS if each.type == shortcut.notifies and each.name in names]
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
        if environment.get(variable):
            advice = f"says nothing without {shortcut.introduced_by}: set that too"
            yield Problem(key=variable, value=MASK, advice=advice)

"""The layers that settings come from, and one path through all of them.

A layer is a tree of tables and values as TOML has them. Each value's path leads to where it came from, so that a
message can name the file or the variable.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME = re.compile("[a-z0-9-]{1,32}")

KeyPath = tuple[str | int, ...]
"""A way through tables (by key) and arrays (by index)."""

Tree = dict[str, Any]
"""Tables and values, unchecked: what TOML's own reader returns."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A tree of values and the origin of each."""

    tree: Tree = field(default_factory=dict)
    origins: Mapping[KeyPath, str] = field(default_factory=dict)


def value_at(tree: object, path: KeyPath) -> object:
    """The value at a path; None if there is none."""
    for step in path:
        if isinstance(tree, dict) and isinstance(step, str):
            tree = tree.get(step)
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        else:
            return None
    return tree


def paths_of_values(tree: object, above: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every value below a tree; tables and arrays themselves are left out."""
    if isinstance(tree, dict):
        for key, below in tree.items():
            yield from paths_of_values(below, (*above, key))
    elif isinstance(tree, list):
        for index, below in enumerate(tree):
            yield from paths_of_values(below, (*above, index))
    else:
        yield above


def first_value(layers: Sequence[Layer], path: KeyPath) -> object:
    """The value at a path in the first layer that has one."""
    return next((value for layer in layers if (value := value_at(layer.tree, path)) is not None), None)


def first_origin(layers: Sequence[Layer], path: KeyPath) -> str | None:
    """The origin of the value at a path; for a table, that of a value below it."""
    for layer in layers:
        for known, origin in layer.origins.items():
            if known[: len(path)] == path:
                return origin
    return None


def readable(path: KeyPath, layers: Sequence[Layer]) -> str:
    """A path as people write it: `intake.listen`, `destinations[endpoint].retry.max`."""
    text = ""
    for depth, step in enumerate(path):
        if isinstance(step, int):
            name = first_value(layers, (*path[: depth + 1], "name"))
            text += f"[{name if isinstance(name, str) and _NAME.fullmatch(name) else step}]"
        else:
            text += f".{step}" if text else step
    return text


# What is wrong with a configuration, in words that say what would be right.


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    key: str
    """The setting or variable."""
    advice: str
    """What would be valid."""
    value: str | None = None
    """The given value, masked if it is or may be a secret; None if there was none."""
    origin: str | None = None
    """The file or the variable that it came from."""

    def __str__(self) -> str:
        given = "" if self.value is None else f" = {self.value}"
        origin = "" if self.origin in (None, self.key) else f" (from {self.origin})"
        return f"{self.key}{given}{origin}: {self.advice}"


class InvalidConfiguration(Exception):
    """The configuration cannot be used; `problems` holds everything that is wrong, not only the first.

    `files` are those that it was read from, or names: what is missing may come.
    """

    def __init__(self, problems: Iterable[Problem], files: Iterable[Path] = ()) -> None:
        self.problems = tuple(problems)
        self.files = tuple(files)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(unknown: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Advice about an unknown name: the nearest known one, or the one that it shortens or lengthens.

    A shared prefix makes no two names near.
    """
    tail, tails = unknown.removeprefix(prefix), [name.removeprefix(prefix) for name in known]
    near = difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)
    near = near or [each for each in tails if tail.startswith(each) or (tail and each.startswith(tail))]
    return f"is unknown; did you mean {prefix}{near[0]}?" if near else "is unknown"

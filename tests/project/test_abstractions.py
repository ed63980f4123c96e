"""Abstractions have to earn their place: no protocol for a single neighbour, no class where a function will do."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import pytest

from tests.project.repository import text, with_suffix

PRODUCT = ("gateway", "spool", "uploaders", "config")
LAYER_PARTS = 2
"""A layer is a package with the one that it lies in: `gateway.intake`, `spool.queue`."""


class Class(NamedTuple):
    """A class of the product, as its source says it."""

    name: str
    layer: str
    bases: frozenset[str]
    members: frozenset[str]
    """Methods, properties and attributes that it has itself."""

    @property
    def is_protocol(self) -> bool:
        return "Protocol" in self.bases


@cache
def classes() -> tuple[Class, ...]:
    """Every class of the product."""
    return tuple(
        _class(node, ".".join(path.parent.parts[:LAYER_PARTS]))
        for path in with_suffix(".py")
        if path.parts[0] in PRODUCT
        for node in ast.walk(ast.parse(text(path)))
        if isinstance(node, ast.ClassDef)
    )


def _class(node: ast.ClassDef, layer: str) -> Class:
    bases = frozenset(ast.unparse(base).partition("[")[0] for base in node.bases)
    return Class(node.name, layer, bases, frozenset(_members(node)))


def _members(node: ast.ClassDef) -> Iterator[str]:
    for one in node.body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            yield one.name
        elif isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            yield one.target.id
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store) and ast.unparse(inner.value) == "self":
            yield inner.attr


def inherited(one: Class, named: Mapping[str, list[Class]]) -> frozenset[str]:
    """The members of a class, with those of the classes that it extends."""
    bases = (base for name in one.bases for base in named.get(name, ()))
    return one.members.union(*(inherited(base, named) for base in bases))


def lone_neighbours(among: tuple[Class, ...]) -> set[str]:
    """Protocols that nothing implements but one class of their own layer."""
    named: dict[str, list[Class]] = {}
    for one in among:
        if not one.is_protocol:
            named.setdefault(one.name, []).append(one)
    members = [(one.layer, inherited(one, named)) for same in named.values() for one in same]
    return {
        protocol.name
        for protocol in among
        if protocol.is_protocol and [layer for layer, has in members if protocol.members <= has] == [protocol.layer]
    }


def callables(among: tuple[Class, ...]) -> set[str]:
    """Classes with `__call__` and nothing else that others may use."""
    return {
        one.name
        for one in among
        if "__call__" in one.members and not any(not member.startswith("_") for member in one.members)
    }


def test_a_protocol_is_for_more_than_its_neighbour() -> None:
    """A protocol whose one implementation is in the same layer hides nothing: the class itself will do."""
    assert not lone_neighbours(classes())


def test_a_function_is_no_class() -> None:
    """A class whose API is one `__call__` is a function, or a `partial` of one."""
    assert not callables(classes())


@pytest.mark.parametrize(
    ("source", "lone", "called"),
    [
        ("class P(Protocol):\n def f(self): ...\nclass A:\n def f(self): ...", {"P"}, set()),
        (
            "class P(Protocol):\n def f(self): ...\nclass A:\n def f(self): ...\nclass B:\n def f(self): ...",
            set(),
            set(),
        ),
        ("class P(Protocol[T]):\n size: int\nclass A:\n def __init__(self):\n  self.size = 1", {"P"}, set()),
        ("class P(asyncio.Protocol):\n def f(self): ...\nclass A:\n def f(self): ...", set(), set()),
        ("class A:\n def __call__(self): ...", set(), {"A"}),
        ("class A:\n def __init__(self):\n  self._x = 1\n async def __call__(self): ...", set(), {"A"}),
        ("class A:\n def __call__(self): ...\n def close(self): ...", set(), set()),
    ],
)
def test_what_is_looked_for_is_found(source: str, lone: set[str], called: set[str]) -> None:
    """The count is none because there is none, not because none is seen."""
    found = tuple(_class(node, "layer") for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef))
    assert lone_neighbours(found) == lone
    assert callables(found) == called

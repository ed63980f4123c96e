"""Reading docs/promises.md: which code keeps a promise, and which test fails without it."""

import ast
import re
from dataclasses import dataclass
from functools import cache

from tests.project.repository import ROOT, text

_REFERENCE = re.compile(r"`([\w./-]+\.(?:py|sql))(?:::([\w.]+))?`")


@dataclass(frozen=True)
class Reference:
    """A file, and what is meant in it: a function, a class, or a method as `Class.method`."""

    path: str
    name: str | None

    def exists(self) -> bool:
        if not (ROOT / self.path).is_file():
            return False
        return self.name is None or self.name in defined(self.path)


@dataclass(frozen=True)
class Promise:
    """One row of the table."""

    words: str
    kept_in: tuple[Reference, ...]
    tests: tuple[Reference, ...]


def promises(document: str) -> list[Promise]:
    """The rows of the tables with the columns Promise, Kept in, Fails without it."""
    found, inside = [], False
    for line in document.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            inside = False
        elif cells == ["Promise", "Kept in", "Fails without it"]:
            inside = True
        elif inside and len(cells) == 3 and set(line) - set("|-: "):
            found.append(Promise(cells[0], references(cells[1]), references(cells[2])))
    return found


def references(cell: str) -> tuple[Reference, ...]:
    """Every `path/file.py::Name` of a cell."""
    return tuple(Reference(path, name or None) for path, name in _REFERENCE.findall(cell))


@cache
def defined(path: str) -> frozenset[str]:
    """What a Python file defines: functions, classes, methods (`Class.method`), and module constants."""
    names: set[str] = set()
    for node in ast.parse(text(path)).body:
        if isinstance(node, ast.ClassDef):
            functions = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            names |= {node.name, *(f"{node.name}.{function.name}" for function in functions)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)

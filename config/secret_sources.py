"""Reads secrets from files, systemd credentials and commands, so that they need not be in the environment.

A variable of a secret, `NAME`, may be replaced by `NAME_FILE` (a file that holds it), by `NAME_COMMAND` (a command that
prints it), or by a credential called `NAME` (`LoadCredential=` of systemd); in the TOML file, `token_file` and
`token_command` stand for `token`. Every process of the same user can read an environment, and `docker inspect` shows
it; a file has an owner.
"""

import os
import shlex
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from config.layers import KeyPath, Layer, Problem, value_at
from config.values import CREDENTIALS_DIRECTORY, MASK

FILE, COMMAND = "file", "command"
LARGEST_BYTES = 64 << 10
COMMAND_SECONDS = 10.0


class UnusableSource(Exception):
    """A file or command gives no secret; the message says why."""


class SecretSources:
    """Reads secrets from their sources. It collects problems and warnings, and raises nothing.

    With `read=False` no source is read, for commands that need no secret.
    """

    def __init__(self, *, read: bool = True) -> None:
        self._read = read
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.origins: dict[str, str] = {}
        """The source of each variable that was resolved."""
        self.files: list[Path] = []
        """The files that were read or could not be read."""

    def variables(self, environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
        """The environment, with the value of each secret that it names a source for."""
        resolved = dict(environment)
        for name in names:
            given = [each for each in (name, f"{name}_FILE", f"{name}_COMMAND") if environment.get(each)]
            if len(given) > 1:
                self.problems.append(Problem(name, f"is given more than once: leave one of {', '.join(given)}", MASK))
            elif given != [name] and self._read:
                label, kind, source = self._source_of(name, given, environment)
                value = self._value(label, kind, source) if source else None
                if value:
                    resolved[name], self.origins[name] = value, label
        return resolved

    def _source_of(self, name: str, given: list[str], environment: Mapping[str, str]) -> tuple[str, str, str]:
        """The source of a variable: its name in messages, its kind, and the path or command."""
        if given:
            return given[0], FILE if given[0].endswith("_FILE") else COMMAND, environment[given[0]]
        return f"the credential {name}", FILE, self._credential(name, environment.get(CREDENTIALS_DIRECTORY))

    def _credential(self, name: str, directory: str | None) -> str:
        """The path of a credential of systemd; empty where there is none of this name."""
        if directory is None:
            return ""
        path = Path(directory) / name
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            if CREDENTIALS_DIRECTORY not in [problem.key for problem in self.problems]:  # it is so with all of them
                advice = f"cannot be read: {error.strerror}; start callspool as the user of its unit, or unset it"
                self.problems.append(Problem(CREDENTIALS_DIRECTORY, advice, f'"{path}"'))
            return ""
        return str(path)

    def layer(self, layer: Layer, secrets: Iterable[KeyPath]) -> Layer:
        """The layer of a file, with the values of its secrets; `secrets` are the paths of secret settings."""
        tree = layer.tree
        origins: dict[KeyPath, str] = dict(layer.origins)
        for *above, name in secrets:
            table = value_at(tree, tuple(above))
            if not isinstance(table, dict):
                continue
            for kind in (FILE, COMMAND):
                key = f"{name}_{kind}"
                if key not in table:
                    continue
                source, path = table[key], (*above, key)
                label = ".".join(map(str, path))
                tree = _replaced(tree, path, None)
                origin = next((origins.pop(each) for each in list(origins) if each[: len(path)] == path), None)
                if name in table:
                    self.problems.append(Problem(label, f"stands beside {name}: leave one of them", origin=origin))
                elif self._read:
                    value = self._value(label, kind, source, origin)
                    if value:
                        tree = _replaced(tree, (*above, name), value)
                        origins[*above, name] = f"{label} in {origin}" if origin else label
        return Layer(tree, origins)

    def _value(self, label: str, kind: str, source: object, origin: str | None = None) -> str | None:
        """The secret; None where it cannot be read, and then the problem is noted."""
        try:
            if kind == COMMAND:
                return _output_of(source)
            if not isinstance(source, str) or not source.strip():
                raise UnusableSource("should be the path of a file")
            self.files.append(Path(source))
            value, loose = _content_of(Path(source))
        except UnusableSource as error:
            shown = source if isinstance(source, str) and kind == FILE else MASK
            self.problems.append(Problem(label, str(error), f'"{shown}"', origin))
            return None
        if loose:
            self.warnings.append(loose_file_warning(Path(source), label))
        return value


def loose_file_warning(path: Path, what: str) -> str:
    """The warning about a file with secrets that every user of the machine can read."""
    return f"{path} ({what}) holds secrets, and every user of this machine can read it: chmod o-rwx {path}"


def readable_by_all(path: Path) -> bool:
    """Whether users other than the owner and the group can read a file."""
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False


def _content_of(path: Path) -> tuple[str, bool]:
    """The content of a file, and whether everybody can read it. Raises `UnusableSource`."""
    try:
        # Links are followed: Kubernetes makes the files of a secret links. A pipe, as shells give, is read to its end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(file.fileno())
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UnusableSource(f"cannot be read: {error.strerror or type(error).__name__}") from None
    return _text_of(data), stat.S_ISREG(about.st_mode) and bool(about.st_mode & 0o004)


def _output_of(command: object) -> str:
    """What a command prints. Raises `UnusableSource`."""
    try:
        words = command if isinstance(command, list) else shlex.split(command) if isinstance(command, str) else []
    except ValueError:  # a quote without an end
        words = []
    if not words or not all(isinstance(word, str) for word in words):
        raise UnusableSource("should be a command, such as `vault read -field=token secret/callspool`")
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False
        )
    except OSError as error:
        raise UnusableSource(f"cannot be run: {error.strerror or type(error).__name__}") from None
    except subprocess.TimeoutExpired:
        raise UnusableSource(f"did not end within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode != 0:
        # What it printed may hold a part of the secret, so that it is not shown.
        raise UnusableSource(f"ended with status {done.returncode}; run it by hand to see why")
    return _text_of(done.stdout)


def _text_of(data: bytes) -> str:
    """The secret, without the blanks around it. Raises `UnusableSource`."""
    if len(data) > LARGEST_BYTES:
        raise UnusableSource(f"has more than {LARGEST_BYTES >> 10} KiB, which is no secret")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UnusableSource("is not UTF-8") from None
    if not text:
        raise UnusableSource("is empty, which would quietly turn the secret off")
    return text


def _replaced(tree: Any, path: KeyPath, value: str | None) -> Any:  # Any: a tree of TOML
    """A copy of the tree with this value at the path; without that path for None."""
    step, rest = path[0], path[1:]
    copy: Any = list(tree) if isinstance(tree, list) else dict(tree)
    if rest:
        copy[step] = _replaced(copy[step], rest, value)
    elif value is None:
        del copy[step]
    else:
        copy[step] = value
    return copy

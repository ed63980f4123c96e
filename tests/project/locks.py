"""Reading the lock files, and what each locked distribution asks for."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.repository import text

WINDOWS_ONLY = {"colorama": "0.4.6", "httpx2-jsfetch": "1.0", "tzdata": "2026.6"}
"""Locked for Windows or browsers alone, in versions that ask for nothing: whoever locks another one looks into it."""

ENVIRONMENTS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": sys_platform,
        "platform_system": system,
        "os_name": os_name,
        "platform_machine": machine,
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_version": "",
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for sys_platform, system, os_name, machine in (
        ("linux", "Linux", "posix", "x86_64"),
        ("linux", "Linux", "posix", "aarch64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
        ("emscripten", "Emscripten", "posix", "wasm32"),
    )
]
"""The Pythons and platforms that the locks are for; the last one because libraries ask for something there."""
Platform = tuple[tuple[str, str], ...]
"""One of them, as a key."""


@dataclass(frozen=True)
class Pin:
    """One locked distribution."""

    version: str
    marker: Marker | None
    hashes: tuple[str, ...]

    def holds(self, environment: dict[str, str] | None = None) -> bool:
        """Whether pip installs it there; without an environment, here."""
        return self.marker is None or self.marker.evaluate(environment)


@cache
def locked(name: str) -> dict[str, Pin]:
    """Each distribution that a lock file names."""
    pins: dict[str, Pin] = {}
    for block in re.split(r"\n(?=\S)", text(name).strip()):
        requirement = Requirement(block.partition("\\")[0].strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", block
        hashes = tuple(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))
        pins[canonicalize_name(requirement.name)] = Pin(specifier.version, requirement.marker, hashes)
    return pins


class NotInstalled(Exception):
    """The metadata of a locked distribution is not here: .venv was not made from these locks."""


@cache
def asked_for(name: str, version: str) -> tuple[Requirement, ...]:
    """What a locked distribution asks for, by its own metadata. Raises `NotInstalled`."""
    if WINDOWS_ONLY.get(name) == version:
        return ()
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise NotInstalled(f"{name} {version}") from None
    if found.version != version:
        raise NotInstalled(f"{name} {version}, but {found.version} is")
    return tuple(Requirement(line) for line in found.requires or ())


def missing(roots: Iterable[Requirement], pins: dict[str, Pin], environment: dict[str, str]) -> Iterator[str]:
    """What a lock lacks in an environment, with who asks for it; nothing where it is complete."""
    yield from _walk(roots, pins, environment, set())


def reached(roots: Iterable[Requirement], pins: dict[str, Pin], environment: dict[str, str]) -> set[str]:
    """The distributions that something asks for in an environment."""
    seen: set[tuple[str, str]] = set()
    for _ in _walk(roots, pins, environment, seen):
        pass
    return {name for name, _ in seen}


def _walk(
    roots: Iterable[Requirement], pins: dict[str, Pin], environment: dict[str, str], seen: set[tuple[str, str]]
) -> Iterator[str]:
    """Follow every requirement, once for each extra that is asked for."""
    platform = tuple(environment.items())
    waiting = [(requirement, "the project") for requirement in roots if _applies(requirement, platform, "")]
    while waiting:
        requirement, asking = waiting.pop()
        name = canonicalize_name(requirement.name)
        pin = pins.get(name)
        if pin is None or not pin.holds(environment):
            yield f"{asking} asks for {requirement}, which is not locked"
        elif not requirement.specifier.contains(pin.version, prereleases=True):
            yield f"{asking} asks for {requirement}, but {pin.version} is locked"
        else:
            for wanted in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
                seen.add((name, wanted))
                asked = _asked_for_on(name, pin.version, platform, wanted)
                waiting += [(each, f"{name} {pin.version}") for each in asked]


@cache
def _asked_for_on(name: str, version: str, platform: Platform, extra: str) -> list[Requirement]:
    """What a distribution asks for there, with an extra or without. Raises `NotInstalled`."""
    return [each for each in asked_for(name, version) if _applies(each, platform, extra)]


def _applies(requirement: Requirement, platform: Platform, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**dict(platform), "extra": extra})

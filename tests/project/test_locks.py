"""The lock files: complete, hashed, and silent about where packages come from."""

import re
import tomllib
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.repository import text

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock", "requirements-sdk.lock")


@cache
def pyproject():
    return tomllib.loads(text("pyproject.toml"))


def locked(name):
    """Each locked package with its version and its hashes."""
    blocks = re.split(r"\n(?=\S)", text(name).strip())
    pins = {}
    for block in blocks:
        pin, *_ = block.split(" ", 1)
        package, _, version = pin.partition("==")
        pins[canonicalize_name(package)] = (version, re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))
    return pins


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_hashes_and_no_address(name):
    """Each pin has its hashes; which index serves it is decided by the environment that installs it."""
    content = text(name)
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ ", content)
    assert all(version and hashes for version, hashes in locked(name).values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", lambda: pyproject()["project"]["dependencies"]),
        ("requirements-dev.lock", lambda: pyproject()["project"]["dependencies"]),
        ("requirements-dev.lock", lambda: pyproject()["project"]["optional-dependencies"]["dev"]),
        ("requirements-build.lock", lambda: pyproject()["build-system"]["requires"]),
    ],
    ids=["runtime", "runtime-in-dev", "dev", "build"],
)
def test_a_lock_holds_what_the_project_asks_for(name, wanted):
    """Every dependency in pyproject.toml is locked, in a version that it allows: `make lock` was not forgotten."""
    pins = locked(name)
    wrong = []
    for line in wanted():
        requirement = Requirement(line)
        version, _ = pins.get(canonicalize_name(requirement.name), ("nothing", ()))
        if version == "nothing" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{line}, but locked is {version}")
    assert not wrong, "run `make lock`"


def test_development_and_runtime_agree():
    """Tests run against the versions that are shipped."""
    runtime, development = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: pin for name, pin in development.items() if name in runtime} == runtime

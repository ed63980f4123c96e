"""The lock files: complete for every Python and platform, hashed, and silent about where packages come from."""

import itertools
import re
import tomllib
from functools import cache

import pytest
from packaging.requirements import Requirement

from tests.project.locks import ENVIRONMENTS, WINDOWS_ONLY, NotInstalled, asked_for, locked, missing, reached
from tests.project.repository import text

LOCKS = (
    "requirements.lock",
    "requirements-image.lock",
    "requirements-dev.lock",
    "requirements-build.lock",
    "requirements-sdk.lock",
    "requirements-chdb.lock",
    "requirements-providers.lock",
    "requirements-deploy.lock",
    "requirements-docs.lock",
    "requirements-model.lock",
)
COMPLETE = LOCKS[:4]
"""All but those of which nothing is installed that they ask for (agent frameworks, data frames, HTTP clients), and
those that are installed for a check alone."""


@cache
def wanted(name: str) -> list[Requirement]:
    """What the project asks for in each lock."""
    pyproject = tomllib.loads(text("pyproject.toml"))
    runtime, extras = pyproject["project"]["dependencies"], pyproject["project"]["optional-dependencies"]
    lines = {
        "requirements.lock": runtime,
        "requirements-image.lock": [*runtime, *(line for name in extras.keys() - {"dev"} for line in extras[name])],
        "requirements-dev.lock": [*runtime, *extras["dev"]],
        "requirements-build.lock": [*pyproject["build-system"]["requires"], "pip"],
    }
    return [Requirement(line) for line in lines[name]]


@pytest.fixture(params=COMPLETE)
def lock(request: pytest.FixtureRequest) -> str:
    """Each lock that is to be complete; skipped where .venv was not made from it."""
    try:
        for name, pin in locked(request.param).items():
            asked_for(name, pin.version)
    except NotInstalled as error:
        pytest.skip(f"{request.param} is not installed here (make setup): {error}")
    return str(request.param)


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_not_installed_here_is_known(name: str) -> None:
    """What a lock holds for other platforms only is known to ask for nothing: no metadata of it is here to say so."""
    elsewhere = {package: pin.version for package, pin in locked(name).items() if not pin.holds()}
    assert elsewhere.items() <= WINDOWS_ONLY.items()


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_hashes_and_no_address(name: str) -> None:
    """Each pin has its hashes; which index serves it is decided by the environment that installs it."""
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ ", text(name))
    assert all(pin.version and pin.hashes for pin in locked(name).values())


def test_a_lock_is_complete(lock: str) -> None:
    """Whatever a locked distribution asks for is locked too, in a version it allows, with its extras, everywhere."""
    found = {line for environment in ENVIRONMENTS for line in missing(wanted(lock), locked(lock), environment)}
    assert not found, "run `make lock`"


def test_a_lock_holds_nothing_needless(lock: str) -> None:
    """What nothing asks for any more, on no platform, is not installed either."""
    needed = set().union(*(reached(wanted(lock), locked(lock), environment) for environment in ENVIRONMENTS))
    assert set(locked(lock)) == needed, "run `make lock`"


@pytest.mark.parametrize("left_out", sorted(locked("requirements-dev.lock")))
def test_a_gap_in_a_lock_is_found(left_out: str) -> None:
    """The check above fails for every single distribution that is taken out of the lock."""
    pins = {name: pin for name, pin in locked("requirements-dev.lock").items() if name != left_out}
    try:
        gaps = (missing(wanted("requirements-dev.lock"), pins, environment) for environment in ENVIRONMENTS)
        assert any(any(True for _ in gap) for gap in gaps)
    except NotInstalled as error:
        pytest.skip(f"not installed here (make setup): {error}")


def test_an_extra_is_followed() -> None:
    """What only an extra asks for is looked for: aioboto3 asks for `aiobotocore[boto3]`, which asks for boto3."""
    pins = {name: pin for name, pin in locked("requirements.lock").items() if name != "boto3"}
    found = "\n".join(missing(wanted("requirements.lock"), pins, ENVIRONMENTS[0]))
    assert re.search(r"^aiobotocore \S+ asks for boto3.*, which is not locked$", found, re.MULTILINE)


@pytest.mark.parametrize("pair", list(itertools.combinations(COMPLETE, 2)), ids=" and ".join)
def test_locks_agree(pair: tuple[str, str]) -> None:
    """What several locks name is the same file in each: tests run against the versions that are shipped.

    Where it is installed may differ: what asks for it on all systems in one may ask for it on some in another.
    """
    one, other = ({name: (pin.version, pin.hashes) for name, pin in locked(lock).items()} for lock in pair)
    assert {name: one[name] for name in one.keys() & other.keys()} == {
        name: other[name] for name in one.keys() & other.keys()
    }


def test_development_contains_runtime() -> None:
    """Whoever tests has everything that runs."""
    assert locked("requirements.lock").keys() <= locked("requirements-dev.lock").keys()


def test_the_image_carries_every_extra() -> None:
    """A container cannot be installed into: it installs the lock that has all extras but the one for developing."""
    assert "--requirement requirements-image.lock" in text("Dockerfile")

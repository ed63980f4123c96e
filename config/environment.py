"""Reads the CALLSPOOL_* environment variables as a layer, and tells of those that nobody knows."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from config.catalogue import CONFIG_VARIABLE, PREFIX, destination_settings, scalar_settings, variables
from config.layers import KeyPath, Layer
from config.masking import MASK
from config.problems import Problem, did_you_mean

KUBERNETES_LINK = re.compile(
    rf"{PREFIX}(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP).*)?)"
)
"""What Kubernetes puts into every container of a namespace that has a Service named callspool, unasked."""


def read_environment(environment: Mapping[str, str]) -> Layer:
    """The layer of the variables that stand for settings outside the destinations.

    An empty variable counts as not set, except to `environment_problems` where it stands for a secret.
    """
    tree: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    for setting in scalar_settings():
        value = environment.get(setting.variable or "", "")
        if value:
            section, name = setting.path
            tree.setdefault(section, {})[name] = value
            origins[setting.path] = setting.variable or ""
    return Layer(tree, origins)


def environment_problems(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Variables that nobody knows, and secrets that are set but empty."""
    known = variables()
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not _is_kubernetes_link(name, environment):
            yield Problem(key=name, value=MASK, advice=did_you_mean(name, sorted(known), prefix=PREFIX))
    for name in _secret_variables():
        if environment.get(name) == "":
            advice = "is set but empty, which would quietly turn it off: give it a value, or unset it"
            yield Problem(key=name, value='""', advice=advice)


def config_file(environment: Mapping[str, str]) -> str | None:
    """The configuration file that the environment names, if any."""
    return environment.get(CONFIG_VARIABLE) or None


def _secret_variables() -> list[str]:
    settings = (*scalar_settings(), *destination_settings())
    return [setting.variable for setting in settings if setting.secret and setting.variable]


def _is_kubernetes_link(name: str, environment: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environment and KUBERNETES_LINK.fullmatch(name) is not None

"""Loads the settings: defaults, then the TOML file, then CALLSPOOL_* variables, the later winning.

An image has defaults of its own, in the file that CALLSPOOL_DEFAULTS names: what is mounted or set wins over them.

Says what is in effect, too, and where each value came from. Everything that is wrong is reported at once. Nothing here
reads the process's environment by itself.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import InitSettingsSource

from config.catalogue import (
    CONFIG_VARIABLE,
    DEFAULTS_VARIABLE,
    PREFIX,
    fields_in_order,
    scalar_settings,
    secret_paths,
    secret_variables,
    shown,
    sourced_variables,
    variables,
)
from config.layers import InvalidConfiguration, KeyPath, Layer, Problem, did_you_mean, paths_of_values, value_at
from config.secret_sources import SecretSources, loose_file_warning, readable_by_all
from config.settings import Settings
from config.shortcuts import destination_problems, with_shortcuts
from config.sources import source_problems, with_sources
from config.validation import problems_of, warnings
from config.values import MASK


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings, where they came from, and what an operator should look at."""

    settings: Settings
    origins: Mapping[KeyPath, str]
    """The path of every value that is not a default, and the file, variable or option that gave it."""
    warnings: tuple[str, ...]
    files: tuple[Path, ...] = ()
    """What they were read from: the configuration, an image's defaults, secrets."""


def load(
    file: Path | None, environment: Mapping[str, str], *, local: bool = False, read_secrets: bool = True
) -> Loaded:
    """The settings that this file and these variables make; `local` adds the destination of `--local`.

    Without `file`, the one that CALLSPOOL_CONFIG names is read, if any. Without `read_secrets`, secrets that lie in
    files or come from commands are left out. Raises InvalidConfiguration with every problem there is; only a file that
    cannot be read as TOML hides what else may be wrong in it.
    """
    named = file or config_file(environment)
    problems = list(environment_problems(environment))
    base = _file_layer(Path(named) if named else None, problems)
    sources = SecretSources(read=read_secrets)
    if base is not None:
        paths = tuple(secret_paths(base.tree))
        if named and readable_by_all(Path(named)) and any(value_at(base.tree, path) for path in paths):
            sources.warnings.append(loose_file_warning(Path(named), "the configuration"))
        base = sources.layer(base, paths)
    environment = sources.variables(environment, sourced_variables())
    problems.extend(sources.problems)
    file_layer = with_sources(with_shortcuts(base or Layer(), environment, local=local), environment)
    others = environment.get(DEFAULTS_VARIABLE)
    defaults = _file_layer(Path(others) if others else None, problems) or Layer()
    layers = (read_environment(environment), file_layer, defaults)
    settings = _checked(layers, problems)
    if base is not None:
        problems.extend(destination_problems(layers[1], environment))
        problems.extend(source_problems(layers[1]))
    files = (*[Path(each) for each in (named, others) if each], *sources.files)
    if problems or settings is None:
        raise InvalidConfiguration(problems, files)
    origins = {
        path: sources.origins.get(origin, origin) for layer in layers[::-1] for path, origin in layer.origins.items()
    }
    return Loaded(settings, origins, (*sources.warnings, *warnings(settings)), files)


def _file_layer(path: Path | None, problems: list[Problem]) -> Layer | None:
    """The file's layer; None, with the reason added to `problems`, if it cannot be read."""
    if path is None:
        return Layer()
    try:
        return read_file(path)
    except InvalidConfiguration as error:
        problems.extend(error.problems)
        return None


def _checked(layers: tuple[Layer, ...], problems: list[Problem]) -> Settings | None:
    """The settings of these layers, the first one winning; None, with problems added to `problems`, if invalid."""
    sources = tuple(InitSettingsSource(Settings, init_kwargs=layer.tree) for layer in layers)
    try:
        return Settings(_build_sources=(sources, {}))  # type: ignore[call-arg]  # not in the typed signature
    except ValidationError as error:
        problems.extend(problems_of(error, layers))
        return None


# Reads the CALLSPOOL_* environment variables as a layer, and reports unknown ones.

KUBERNETES_LINK = re.compile(
    rf"{PREFIX}(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP).*)?)"
)
"""Variables that Kubernetes adds to every container of a namespace with a Service named callspool."""


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
    """Unknown variables, and secrets that are set but empty."""
    known = variables()
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not _is_kubernetes_link(name, environment):
            yield Problem(key=name, value=MASK, advice=did_you_mean(name, sorted(known), prefix=PREFIX))
    for name in secret_variables():
        if environment.get(name) == "":
            advice = "is set but empty, which would quietly turn it off: give it a value, or unset it"
            yield Problem(key=name, value='""', advice=advice)


def config_file(environment: Mapping[str, str]) -> str | None:
    """The configuration file that the environment names, if any."""
    return environment.get(CONFIG_VARIABLE) or None


def _is_kubernetes_link(name: str, environment: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environment and KUBERNETES_LINK.fullmatch(name) is not None


# Reads the TOML file of a configuration as a layer.


def read_file(path: Path) -> Layer:
    """The layer of a TOML file. Raises InvalidConfiguration, naming the file, if it cannot be read as TOML."""
    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise _unusable(path, "no such file") from None
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror or type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise _unusable(path, f"not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise _unusable(path, f"not valid TOML: {error}") from None
    except RecursionError:
        raise _unusable(path, "nested too deeply") from None
    return Layer(tree, {value: str(path) for value in paths_of_values(tree)})


def _unusable(path: Path, advice: str) -> InvalidConfiguration:
    return InvalidConfiguration([Problem(key=str(path), advice=advice)])


# What the settings are in effect, each with where it came from: for people, secrets masked.

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting as it is in effect."""

    key: str
    value: str
    """As people write it, masked if it is a secret."""
    origin: str
    """`default`, or the file, variable or option that set it."""


def effective_settings(loaded: Loaded) -> tuple[EffectiveSetting, ...]:
    """Every setting, those of each source, destination and tenant included, in the order of the documentation."""
    return tuple(_all(loaded))


def _all(loaded: Loaded) -> Iterator[EffectiveSetting]:
    settings = loaded.settings
    for section in Settings.model_fields:
        table = getattr(settings, section)
        if isinstance(table, BaseModel):
            yield from _below(table, section, (section,), loaded)
    for index, source in enumerate(settings.sources):
        yield from _below(source, f"sources[{source.name}]", ("sources", index), loaded)
    for index, destination in enumerate(settings.destinations):
        yield from _below(destination, f"destinations[{destination.name}]", ("destinations", index), loaded)
    for name, tenant in settings.tenants.items():
        yield from _below(tenant, f"tenants.{name}", ("tenants", name), loaded)


def _below(table: BaseModel, key: str, path: KeyPath, loaded: Loaded) -> Iterator[EffectiveSetting]:
    for name, field in fields_in_order(type(table)):
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            yield from _below(value, f"{key}.{name}", (*path, name), loaded)
        else:
            origin = _origin(loaded, (*path, name))
            yield EffectiveSetting(f"{key}.{name}", shown(value, field), origin)


def _origin(loaded: Loaded, path: KeyPath) -> str:
    """Where a value came from; for a list, where its first one did."""
    return loaded.origins.get(path) or loaded.origins.get((*path, 0), DEFAULT)

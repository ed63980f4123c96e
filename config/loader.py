"""Loads the settings: defaults, then the TOML file, then CALLSPOOL_* variables, the later winning.

Everything that is wrong is told at once. Nothing here reads the process's environment by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import InitSettingsSource

from config.cautions import cautions
from config.destination_list import destination_problems, with_shortcuts
from config.environment import config_file, environment_problems, read_environment
from config.file import read_file
from config.layers import KeyPath, Layer
from config.problems import InvalidConfiguration, Problem
from config.settings import Settings
from config.validation import problems_of


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings, where they came from, and what an operator should look at."""

    settings: Settings
    origins: Mapping[KeyPath, str]
    """The path of every value that is not a default, and the file, variable or option that gave it."""
    cautions: tuple[str, ...]


def load(file: Path | None, environment: Mapping[str, str], *, local: bool = False) -> Loaded:
    """The settings that this file and these variables make; `local` adds the destination of `--local`.

    Without `file`, the one that CALLSPOOL_CONFIG names is read, if any. Raises InvalidConfiguration with every
    problem there is; only a file that cannot be read as TOML hides what else may be wrong in it.
    """
    named = file or config_file(environment)
    problems = list(environment_problems(environment))
    base = _file_layer(Path(named) if named else None, problems)
    layers = (read_environment(environment), with_shortcuts(base or Layer(), environment, local=local))
    settings = _checked(layers, problems)
    if base is not None:
        problems.extend(destination_problems(layers[1], environment))
    if problems or settings is None:
        raise InvalidConfiguration(problems)
    return Loaded(settings, {**layers[1].origins, **layers[0].origins}, cautions(settings))


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
    """The settings that these layers make, the first winning; None with what is wrong added to `problems`."""
    sources = tuple(InitSettingsSource(Settings, init_kwargs=layer.tree) for layer in layers)
    try:
        return Settings(_build_sources=(sources, {}))  # type: ignore[call-arg]  # not in the typed signature
    except ValidationError as error:
        problems.extend(problems_of(error, layers))
        return None

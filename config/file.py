"""Reads the TOML file of a configuration as a layer."""

import tomllib
from pathlib import Path

from config.layers import Layer, paths_of_values
from config.problems import InvalidConfiguration, Problem


def read_file(path: Path) -> Layer:
    """The layer of a TOML file. Raises InvalidConfiguration, naming the file, if it cannot be read as TOML."""
    try:
        tree = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise _unusable(path, "there is no such file") from None
    except OSError as error:
        raise _unusable(path, f"it cannot be read: {error.strerror or type(error).__name__}") from error
    except UnicodeDecodeError as error:
        raise _unusable(path, f"it is not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise _unusable(path, f"it is not TOML: {error}") from None
    return Layer(tree, {value: str(path) for value in paths_of_values(tree)})


def _unusable(path: Path, advice: str) -> InvalidConfiguration:
    return InvalidConfiguration([Problem(key=str(path), advice=advice)])

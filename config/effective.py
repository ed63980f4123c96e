"""What the settings are in effect, each with where it came from: for people, secrets masked."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from config.catalogue import fields_in_order, nested_model, shown
from config.layers import KeyPath
from config.loader import Loaded
from config.settings import Settings

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting as it is in effect."""

    key: str
    value: str
    """As people write it, masked where it is a secret."""
    origin: str
    """`default`, or the file, variable or option that set it."""


def effective_settings(loaded: Loaded) -> tuple[EffectiveSetting, ...]:
    """Every setting, those of each destination included, in the order of the documentation."""
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


def _below(table: BaseModel, key: str, path: KeyPath, loaded: Loaded) -> Iterator[EffectiveSetting]:
    for name, field in fields_in_order(type(table)):
        value = getattr(table, name)
        if nested_model(field) is not None:
            yield from _below(value, f"{key}.{name}", (*path, name), loaded)
        else:
            origin = _origin(loaded, (*path, name))
            yield EffectiveSetting(f"{key}.{name}", shown(value, field), origin)


def _origin(loaded: Loaded, path: KeyPath) -> str:
    """Where a value came from; for a list, where its first one did."""
    return loaded.origins.get(path) or loaded.origins.get((*path, 0), DEFAULT)

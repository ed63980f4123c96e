"""The catalogue of settings: their keys, variables, defaults and meanings, read from the models themselves."""

import ast
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from config.destinations import DESTINATION_TYPES, DestinationTable, type_name
from config.layers import KeyPath
from config.settings import Settings
from config.shortcuts import DATABASE_VARIABLE, SHORTCUTS, shortcut_variable
from config.sources import SECRET_SOURCE_VARIABLES, SOURCE_VARIABLES, SourceSettings
from config.tenants import TenantSettings
from config.types import Shown, Variable
from config.values import MASK

PREFIX = "CALLSPOOL_"
CONFIG_VARIABLE = "CALLSPOOL_CONFIG"
"""Names the TOML file, like `--config`."""
DEFAULTS_VARIABLE = "CALLSPOOL_DEFAULTS"
"""Names a TOML file whose values replace defaults: that of an image or a package."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as documentation and messages name it."""

    path: tuple[str, ...]
    """Where it stands: section and field, or the fields below a destination."""
    key: str
    """How people name it."""
    variable: str | None
    """Its environment variable."""
    default: str
    """Its default as people write it; empty where a value must be given."""
    secret: bool
    table: type[BaseModel]
    """Where it is declared and documented."""

    @property
    def meaning(self) -> str:
        """Its documentation, in one line."""
        return _documentation(self.table)[self.path[-1]]


@cache
def scalar_settings() -> tuple[Setting, ...]:
    """Every setting outside the destinations, in the order of the models."""
    return tuple(_below_sections())


@cache
def destination_settings() -> tuple[Setting, ...]:
    """Every setting of every type of destination."""
    return tuple(setting for model in DESTINATION_TYPES for setting in _below_destination(model))


@cache
def source_settings() -> tuple[Setting, ...]:
    """Every setting of a source of webhooks."""
    return tuple(
        Setting(
            path=path,
            key=f"sources.{'.'.join(path)}",
            variable=None,
            default=default,
            secret=is_secret(field),
            table=table,
        )
        for table, path, field, default in _fields_below(SourceSettings, ())
    )


@cache
def variables() -> frozenset[str]:
    """Every environment variable that callspool knows."""
    scalars = {setting.variable for setting in scalar_settings() if setting.variable}
    shortcuts = {variable for shortcut in SHORTCUTS for variable in shortcut.fields}
    sources = {f"{name}_{kind}" for name in sourced_variables() for kind in ("FILE", "COMMAND")}
    return frozenset(scalars | shortcuts | SOURCE_VARIABLES.keys() | sources | {CONFIG_VARIABLE, DEFAULTS_VARIABLE})


@cache
def secret_variables() -> tuple[str, ...]:
    """The variables of secrets."""
    settings = (*scalar_settings(), *destination_settings())
    named = [each.variable for each in settings if each.secret and each.variable]
    return tuple(dict.fromkeys((*named, *SECRET_SOURCE_VARIABLES)))


def sourced_variables() -> tuple[str, ...]:
    """The variables whose values may come from a file or a command as well (`config.secret_sources`)."""
    return (*secret_variables(), DATABASE_VARIABLE)


def secret_paths(tree: Mapping[str, Any]) -> Iterator[KeyPath]:
    """Where a secret may stand in a file with this tree."""
    yield from (setting.path for setting in scalar_settings() if setting.secret)
    for name, settings in (("destinations", destination_settings()), ("sources", source_settings())):
        tables = tree.get(name)
        below = dict.fromkeys(each.path for each in settings if each.secret)
        for index in range(len(tables) if isinstance(tables, list) else 0):
            for path in below:
                yield (name, index, *path)
    tenants = tree.get("tenants")
    for tenant in tenants if isinstance(tenants, dict) else ():
        yield from (
            ("tenants", tenant, name) for name, field in TenantSettings.model_fields.items() if is_secret(field)
        )


def shown(value: object, field: FieldInfo) -> str:
    """A checked value as people write it; secrets masked, `none` for no value."""
    if value is None:
        return "none"
    if isinstance(value, SecretStr):
        return MASK
    for marker in field.metadata:
        if isinstance(marker, Shown):
            return str(marker.format(value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value)


def is_secret(field: FieldInfo) -> bool:
    """Whether the values of this field may never be shown."""
    return _mentions(field.annotation, SecretStr)


def nested_model(field: FieldInfo) -> type[BaseModel] | None:
    """The table that this field holds; None for a value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def fields_in_order(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a table as TOML wants them written: values first, tables below them."""
    yield from ((name, field) for name, field in model.model_fields.items() if nested_model(field) is None)
    yield from ((name, field) for name, field in model.model_fields.items() if nested_model(field) is not None)


def _below_sections() -> Iterator[Setting]:
    defaults = Settings()
    for section, section_field in Settings.model_fields.items():
        model = nested_model(section_field)
        if model is None:
            continue
        table = getattr(defaults, section)
        for name, field in model.model_fields.items():
            named = next((marker.name for marker in field.metadata if isinstance(marker, Variable)), None)
            yield Setting(
                path=(section, name),
                key=f"{section}.{name}",
                variable=named or f"{PREFIX}{section}_{name}".upper(),
                default=shown(getattr(table, name), field),
                secret=is_secret(field),
                table=model,
            )


def _below_destination(model: type[DestinationTable]) -> Iterator[Setting]:
    kind = type_name(model)
    for table, path, field, default in _fields_below(model, ()):
        yield Setting(
            path=path,
            key=f"destinations[type={kind}].{'.'.join(path)}",
            variable=shortcut_variable(kind, path[0]) if len(path) == 1 else None,
            default=default,
            secret=is_secret(field),
            table=table,
        )


def _fields_below(
    model: type[BaseModel], above: tuple[str, ...], defaults: BaseModel | None = None
) -> Iterator[tuple[type[BaseModel], tuple[str, ...], FieldInfo, str]]:
    """The values below a table: the table of each, its path, its field, and its default as people write it."""
    for name, field in fields_in_order(model):
        nested = nested_model(field)
        if nested is not None:
            yield from _fields_below(nested, (*above, name), field.get_default(call_default_factory=True))
        else:
            yield model, (*above, name), field, _default_of(field, name, defaults)


def _default_of(field: FieldInfo, name: str, defaults: BaseModel | None) -> str:
    if defaults is not None:
        return shown(getattr(defaults, name), field)
    if field.is_required():
        return ""
    return shown(field.get_default(call_default_factory=True, validated_data={}), field)


def _mentions(annotation: object, wanted: type) -> bool:
    if get_origin(annotation) in (Union, types.UnionType, Annotated, tuple):
        return any(_mentions(argument, wanted) for argument in get_args(annotation))
    return annotation is wanted


@cache
def _documentation(table: type[BaseModel]) -> dict[str, str]:
    """The text below each field of a table, in one line: read from the source when somebody lists settings."""
    found: dict[str, str] = {}
    for base in reversed(table.__mro__):
        if base in BaseModel.__mro__ or not issubclass(base, BaseModel):
            continue
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(declared, ast.ClassDef), "the source of a class"
        for field, text in pairwise(declared.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = " ".join(words.split())
    return found


# The documentation of all settings as rows of a markdown table, made from the models themselves.

HEADER = ("| Setting | Variable | Default | Meaning |", "|---|---|---|---|")
"""Stands above the rows."""


def setting_rows() -> tuple[str, ...]:
    """One row for each setting outside the destinations, and one for the file itself."""
    return (
        f"| `--config` | `{CONFIG_VARIABLE}` | none | The TOML file that holds the settings below. |",
        f"|  | `{DEFAULTS_VARIABLE}` | none | A TOML file with other defaults, as in the image. |",
        *_rows(scalar_settings()),
    )


def destination_rows() -> tuple[str, ...]:
    """One row for each setting of each type of destination."""
    return _rows(destination_settings())


def source_rows() -> tuple[str, ...]:
    """One row for each setting of a source."""
    return _rows(source_settings())


def _rows(settings: Iterable[Setting]) -> tuple[str, ...]:
    return tuple(
        f"| `{setting.key}` | {_code(setting.variable)} | {_code(setting.default)} | {setting.meaning} |"
        for setting in settings
    )


def _code(text: str | None) -> str:
    return f"`{text}`" if text else "-"

"""The documentation of all settings as rows of a markdown table, made from the models themselves."""

from collections.abc import Iterable

from config.catalogue import CONFIG_VARIABLE, Setting, destination_settings, scalar_settings

HEADER = ("| Setting | Variable | Default | Meaning |", "|---|---|---|---|")
"""Stands above the rows."""


def setting_rows() -> tuple[str, ...]:
    """One row for each setting outside the destinations, and one for the file itself."""
    return (
        f"| `--config` | `{CONFIG_VARIABLE}` | none | The TOML file that holds the settings below. |",
        *_rows(scalar_settings()),
    )


def destination_rows() -> tuple[str, ...]:
    """One row for each setting of each type of destination."""
    return _rows(destination_settings())


def _rows(settings: Iterable[Setting]) -> tuple[str, ...]:
    return tuple(
        f"| `{setting.key}` | {_code(setting.variable)} | {_code(setting.default)} | {setting.meaning} |"
        for setting in settings
    )


def _code(text: str | None) -> str:
    return f"`{text}`" if text else "-"

"""Which spool a command is about: a directory that was named, or the configured one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.cli.configuration import loaded_or_exit

Command = TypeVar("Command", bound=Callable[..., Any])


def spool_option(command: Command) -> Command:
    """Adds --config to a command, for what it says about the spool."""
    return click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The TOML file that says where the spool is. [env var: CALLSPOOL_CONFIG]",
    )(command)


def spool_directory(named: Path | None, file: Path | None) -> Path:
    """The directory that was named, or that of the configuration; ends the command where that is wrong."""
    if named is not None:
        return named.absolute()
    # A destination is not needed to look into a spool, and without one the configuration would be refused.
    return loaded_or_exit(file, local=True).settings.spool.dir.absolute()

"""Loads the configuration for a command, or ends the command with everything that is wrong."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from config.destinations import KafkaDestination
from config.layers import InvalidConfiguration
from config.loader import Loaded, load
from config.settings import listeners_of
from gateway.cli import Exit
from gateway.cli.client import remember_config
from gateway.cli.output import complain
from spool import sandbox

if TYPE_CHECKING:
    from gateway.tls import Findings

Command = TypeVar("Command", bound=Callable[..., Any])


def configuration_options(command: Command) -> Command:
    """Adds --config and --local to a command."""
    for option in (
        click.option(
            "--local",
            is_flag=True,
            help="Also deliver into ./callspool-data/delivered, and keep calls in a SQLite file, to try callspool out.",
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file with settings.  [env var: CALLSPOOL_CONFIG]",
        ),
    ):
        command = option(command)
    return command


def loaded_or_exit(file: Path | None, *, local: bool, read_secrets: bool = True) -> Loaded:
    """The settings of this file and the environment; every problem on standard error and exit code 2 otherwise."""
    try:
        return load(file, os.environ, local=local, read_secrets=read_secrets)
    except InvalidConfiguration as error:
        count = len(error.problems)
        complain(f"The configuration is invalid: {count} {'error' if count == 1 else 'errors'}.")
        for problem in error.problems:
            complain(f"  {problem}", style="")
        raise SystemExit(Exit.USAGE) from None


def warnings_of(loaded: Loaded) -> Iterator[str]:
    """What is doubtful about the settings, alone or with what is installed here."""
    yield from loaded.warnings
    if loaded.settings.whispey.outbox and not sandbox.sqlite_is_safe():
        safe = ".".join(str(number) for number in sandbox.SAFE_SQLITE)
        yield (
            f"SQLite {sqlite3.sqlite_version} deletes any file that a forged rollback journal beside an outbox names; "
            f"callspool keeps it from reading such journals, but {safe} or newer would be safe by itself"
        )


def certificate_findings(loaded: Loaded) -> tuple[list[str], list[str]]:
    """What is wrong with the certificates of the listeners and for Kafka, and what is doubtful."""
    errors: list[str] = []
    warnings: list[str] = []
    for section, listener in listeners_of(loaded.settings).items():
        if listener.tls_cert_file is not None:
            found = _examined(listener.tls_cert_file, listener.tls_key_file, listener.tls_client_ca_file)
            errors += [f"{section}: {each}" for each in found.errors]
            warnings += [f"{section}: {each}" for each in found.warnings]
    for each in loaded.settings.destinations:
        if isinstance(each, KafkaDestination) and each.certificate_file is not None:
            found = _examined(each.certificate_file, each.key_file)
            errors += [f"destinations[{each.name}]: {text}" for text in found.errors]
            warnings += [f"destinations[{each.name}]: {text}" for text in found.warnings]
    return errors, warnings


def _examined(certificate: Path, key: Path | None, client_ca: Path | None = None) -> "Findings":
    from gateway.tls import TlsFiles, examine  # noqa: PLC0415  # ssl alone takes 20 ms

    return examine(TlsFiles(certificate, key, client_ca))


# Which spool a command is about: a directory that was named, or the configured one.


def spool_option(command: Command) -> Command:
    """Adds --config to a command, for what it says about the spool."""
    return click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        callback=remember_config,
        help="TOML file with settings, for the spool.  [env var: CALLSPOOL_CONFIG]",
    )(command)


def spool_directory(named: Path | None, file: Path | None) -> Path:
    """The directory that was named, or that of the configuration; ends the command where that is wrong."""
    if named is not None:
        return named.absolute()
    # A destination is not needed to look into a spool, and without one the configuration would be refused.
    return loaded_or_exit(file, local=True, read_secrets=False).settings.spool.dir.absolute()

"""`callspool store migrate`, `check` and `status`: a store as the configuration names it, with or without a gateway."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from config.destinations.stores import StoreTable
from config.settings import Settings
from gateway.cli.exits import Exit
from gateway.cli.options import configuration_options, loaded_or_exit
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, result, table
from gateway.formatting import count_text
from gateway.runtime.destinations import store_of
from gateway.runtime.options import completion_rule
from spool.records import system_clock
from uploaders.stores.completion import CallState
from uploaders.stores.store import Store, StoreError, StoreStatus

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


@click.group(short_help="Migrate and check the store of calls.")
def store() -> None:
    """Migrate and check the database that calls are put together in."""


def store_options(command: Command) -> Command:
    """Adds --config, --local and --destination to a command."""
    named = click.option("--destination", metavar="NAME", help="Which store, where the configuration has several.")
    return configuration_options(named(command))


@store.command(short_help="Bring the schema up to date.")
@store_options
@json_option
def migrate(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Bring the schema up to date, as a start does; for a role that may create tables where the gateway's may not."""
    status = ask_store(file, destination, lambda opened: opened.status(), local=local)
    found = {"engine": status.engine, "schema_version": status.schema_version}
    result(found, f"{status.engine}: the schema has version {status.schema_version}")


@store.command(short_help="Show how many calls are in which state.")
@store_options
@json_option
def status(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Show the engine, the version of the schema, and how many calls are in which state."""
    found: StoreStatus = ask_store(file, destination, lambda opened: opened.status(), local=local)
    if as_json():
        calls = {state.name.lower(): found.calls.get(state, 0) for state in CallState}
        print_json({"engine": found.engine, "schema_version": found.schema_version, "calls": calls})
        return
    shown = table("State", "Calls", numbers=("Calls",))
    for state in CallState:
        shown.add_row(plain(state.name.lower()), plain(count_text(found.calls.get(state, 0))))
    heading = plain(f"{found.engine}, schema version {found.schema_version}", "bold")
    output().print(heading, shown, sep="\n")


@store.command(short_help="Check that every call has its parts.")
@store_options
@json_option
def check(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Check that parts, calls and details belong together. Reads every row; exit code 5 if something is missing."""
    findings = ask_store(file, destination, lambda opened: opened.check(), local=local)
    for finding in findings:
        complain(finding)
    if findings:
        raise SystemExit(Exit.UNSOUND)
    result({"sound": True}, "Every call has its parts, and every part its call.")


def settings_or_exit(file: Path | None, *, local: bool) -> Settings:
    """The settings; ends the command where they are wrong."""
    return loaded_or_exit(file, local=local).settings


def ask_store(file: Path | None, name: str | None, ask: Callable[[Store], Awaitable[Result]], *, local: bool) -> Result:
    """What a store answers; ends the command where there is none, or where it does not work."""
    settings = settings_or_exit(file, local=local)
    stores = {each.name: each for each in settings.destinations if isinstance(each, StoreTable)}
    chosen = next(iter(stores.values()), None) if name is None else stores.get(name)
    if chosen is None:
        known = f"--destination with one of: {', '.join(stores)}" if stores else "Set CALLSPOOL_DATABASE_URL."
        complain("The configuration has no such store.", hint=known)
        raise SystemExit(Exit.USAGE)

    async def asked() -> Result:
        opened = store_of(chosen, completion_rule(settings.completion), system_clock)
        try:
            return await ask(opened)
        finally:
            await opened.close()

    try:
        return asyncio.run(asked())
    except StoreError as error:
        complain(f"{chosen.name}: {error}.")
        raise SystemExit(Exit.FAILED) from None

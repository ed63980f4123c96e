"""Loads the configuration for a command, or ends it with everything that is wrong; and says what is doubtful."""

import os
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click
import psutil

from config.destinations import KafkaDestination
from config.destinations.base import EndpointTable
from config.layers import InvalidConfiguration
from config.loader import Loaded, load
from config.settings import Settings, listeners_of
from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import remember_config
from gateway.cli.output import complain
from gateway.formatting import counted
from spool import sandbox

if TYPE_CHECKING:
    from gateway.tls import Findings


Command = TypeVar("Command", bound=Callable[..., Any])
Chosen = TypeVar("Chosen")


config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file with settings.  [env var: CALLSPOOL_CONFIG]",
)


def configuration_options(command: Command) -> Command:
    """Adds --config and --local to a command."""
    local = click.option(
        "--local",
        is_flag=True,
        help="Add a folder and a SQLite file in ./callspool-data as destinations, to try callspool out.",
    )
    return config_option(local(command))


def loaded_or_exit(file: Path | None, *, local: bool, read_secrets: bool = True) -> Loaded:
    """The settings of this file and the environment; every problem on standard error and exit code 2 otherwise."""
    try:
        return load(file, os.environ, local=local, read_secrets=read_secrets)
    except InvalidConfiguration as error:
        complain(f"The configuration is invalid: {counted(len(error.problems), 'error')}.")
        for problem in error.problems:
            complain(f"  {problem}", style="")
        raise SystemExit(Exit.USAGE) from None


def findings_of(loaded: Loaded, resolve: "Resolve | None" = None) -> tuple[list[str], list[str]]:
    """What is wrong with certificates, and what is doubtful about the settings, alone or with what is here.

    For `resolve` see `own_intake_warnings`.
    """
    errors, warnings = _of_certificates(loaded)
    return errors, [*_of_settings(loaded), *warnings, *own_intake_warnings(loaded.settings, resolve)]


def _of_settings(loaded: Loaded) -> Iterator[str]:
    yield from loaded.warnings
    if loaded.settings.whispey.outbox and not sandbox.sqlite_is_safe():
        safe = ".".join(str(number) for number in sandbox.SAFE_SQLITE)
        yield (
            f"SQLite {sqlite3.sqlite_version} deletes any file that a forged rollback journal beside an outbox names; "
            f"callspool keeps it from reading such journals, but {safe} or newer would be safe by itself"
        )


def _of_certificates(loaded: Loaded) -> tuple[list[str], list[str]]:
    """What is wrong with those of the listeners and for Kafka, and what is doubtful."""
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


def chosen_destination(found: Mapping[str, Chosen], what: str, name: str | None, how: str) -> Chosen:
    """The one of this name, or the only one; ends the command where that is not clear.

    `what` is what people call one, and `how` tells how to get one.
    """
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is not None and name in found:
        return found[name]
    if found and name is not None:
        complain(f"There is no {what} {name}.", hint=f"In the configuration there are: {', '.join(found)}.")
    elif found:
        complain(f"There are several {what}s.", hint=f"Pass --destination with one of: {', '.join(found)}.")
    else:
        complain(f"The configuration has no {what}.", hint=how)
    raise SystemExit(Exit.USAGE)


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
        help="TOML file with settings.  [env var: CALLSPOOL_CONFIG]",
    )(command)


def spool_directory(named: Path | None, file: Path | None) -> Path:
    """The directory that was named, or that of the configuration; ends the command where that is wrong."""
    if named is not None:
        return named.absolute()
    # A destination is not needed to look into a spool, and without one the configuration would be refused.
    return loaded_or_exit(file, local=True, read_secrets=False).settings.spool.dir.absolute()


def folder_beside(spool: Path, prefix: str) -> Path:
    """A new folder on the volume of a spool, for a gateway of a command's own; ends the command where none can be."""
    try:
        spool.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=spool.parent))
    except OSError as error:
        complain(f"{spool.parent} cannot be written to: {error.strerror or error}.")
        raise SystemExit(Exit.FAILED) from None


# Destinations that are this gateway's own intake: it would deliver to itself, and never get rid of a call log.
#
# One environment for the agent and the gateway is enough for that. What the address alone shows is found here; what
# comes back by a proxy or another gateway is recognised by its `Via` when it arrives.

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], set[Address]]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def own_intake_warnings(settings: Settings, resolve: Resolve | None = None) -> Iterator[str]:
    """A sentence for each address, of a destination or for spans, that leads to the own intake.

    `resolve` gives the addresses of a host; by default only numeric ones and `localhost` are looked up, so that a start
    waits for no name server.
    """
    listen = settings.intake.listen
    if listen.path is not None:  # no URL leads to a Unix socket
        return
    if settings.traces.url and _leads_to(settings.traces.url, listen, resolve or addresses_without_names):
        yield (
            f"traces.endpoint is this gateway's own intake ({listen}), which would make call logs of the gateway's own "
            "spans; set it to a collector"
        )
    for destination in settings.destinations:
        if not isinstance(destination, EndpointTable):
            continue
        presigned = getattr(destination, "presigned", None)
        for key, url in (("url", destination.url), ("presigned.address_url", presigned and presigned.address_url)):
            if url and _leads_to(url, listen, resolve or addresses_without_names):
                yield (
                    f"destinations[{destination.name}].{key} is this gateway's own intake ({listen}): it would deliver "
                    "every call log to itself; set it to the endpoint that the agents posted to before callspool"
                )


def addresses_without_names(host: str) -> set[Address]:
    """The addresses of a numeric host, in any spelling, or of `localhost`; none for a name."""
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return {IPv4Address("127.0.0.1"), IPv6Address("::1")}
    try:
        # `127.1`, `0x7f000001` and `2130706433` are what the C library, and so every client, takes for 127.0.0.1.
        return {IPv4Address(socket.inet_aton(host))}
    except OSError:
        return _look_up(host, socket.AI_NUMERICHOST)


def addresses_of(host: str) -> set[Address]:
    """The addresses of any host; none where it cannot be resolved. May take seconds."""
    return addresses_without_names(host) or _look_up(host, 0)


def _look_up(host: str, flags: int) -> set[Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError):
        return set()
    return {ip_address(str(where[0]).partition("%")[0]) for _, _, _, _, where in found}


def _leads_to(url: str, listen: ListenAddress, resolve: Resolve) -> bool:
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    if port != listen.port or not parts.hostname:
        return False
    own, wanted = _own_addresses(), set(map(_plain, resolve(parts.hostname)))
    listening = set(map(_plain, addresses_of(listen.host)))
    if any(address.is_unspecified for address in listening):
        listening = own
    # To connect to 0.0.0.0 or :: is to connect to this machine.
    reached = own if any(address.is_unspecified for address in wanted) else wanted
    return bool(reached & listening) or (listening == own and any(address.is_loopback for address in reached))


def _own_addresses() -> set[Address]:
    """Those of the interfaces of this machine."""
    families = {socket.AF_INET, socket.AF_INET6}
    interfaces = psutil.net_if_addrs().values()
    return {
        _plain(ip_address(each.address.partition("%")[0]))
        for interface in interfaces
        for each in interface
        if each.family in families
    }


def _plain(address: Address) -> Address:
    """An IPv4 address for one that is written as IPv6."""
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address

"""`callspool report`: what a ticket needs to be answered, without secrets and without anything of a call."""

import io
import platform
import sqlite3
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import click
import msgspec

from config.loader import effective_settings
from config.values import ListenAddress
from gateway.admin.status import for_everyone
from gateway.cli import Exit
from gateway.cli.client import NoGateway, Refused, admin_address, ask
from gateway.cli.doctor import examine
from gateway.cli.options import configuration_options, loaded_or_exit
from gateway.cli.output import complain, json_option, result
from gateway.operations.schemas import Status
from uploaders.redact import redact


@click.command()
@configuration_options
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it.  [default: callspool-report-TIME.tar.gz]",
)
@json_option
@admin_address
def report(file: Path | None, address: ListenAddress, *, local: bool, target: Path | None) -> None:  # fmt: skip
    """Write a bundle for a ticket: versions, settings, status, metrics, and what `callspool doctor` finds.

    Secrets are masked; call ids, events and the answers of endpoints are left out. Look at it before you send it.
    """
    made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = target or Path(f"callspool-report-{made}.tar.gz")
    loaded = loaded_or_exit(file, local=local, read_secrets=False)
    sections: dict[str, Callable[[], bytes]] = {
        "versions.json": lambda: _json(dict(_versions())),
        "settings.txt": lambda: "".join(
            f"{each.key} = {each.value}    # {each.origin}\n" for each in effective_settings(loaded)
        ).encode(),
        "doctor.json": lambda: _json(list(examine(loaded.settings))),
        "status.json": lambda: _json(for_everyone(msgspec.json.decode(ask(address, "api", "status"), type=Status))),
        "metrics.txt": lambda: ask(address, "metrics"),
    }
    missing: dict[str, str] = {}
    try:
        with tarfile.open(path, "w:gz") as bundle:
            for name, make in sections.items():
                try:
                    data = make()
                except (NoGateway, Refused, OSError, msgspec.DecodeError) as error:
                    missing[name] = str(error)
                    data = f"not there: {error}\n".encode()
                _add(bundle, f"callspool-report-{made}/{name}", redact(data.decode("utf-8", "replace")).encode())
    except OSError as error:
        complain(f"{path} cannot be written: {error.strerror or error}.")
        raise SystemExit(Exit.FAILED) from None
    result({"file": str(path), "missing": list(missing)}, f"Wrote {path}. Look at it before you send it.")
    for name, reason in missing.items():
        complain(f"{name} was left out: {reason.rstrip('.')}.", style="yellow")


def _versions() -> Iterator[tuple[str, str]]:
    yield "callspool", version("callspool")
    yield "python", sys.version
    yield "platform", platform.platform()
    yield "sqlite", sqlite3.sqlite_version
    for name in ("aiohttp", "uvloop", "zstandard", "msgspec", "aioboto3"):
        yield name, version(name)


def _json(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document))


def _add(bundle: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mtime, about.mode = len(data), int(time.time()), 0o600
    bundle.addfile(about, io.BytesIO(data))

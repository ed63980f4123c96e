"""`callspool health`: whether a gateway lives or is ready, for the probes of containers and scripts."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import admin_option, ask, explained
from gateway.cli.exits import Exit
from gateway.cli.output import complain, json_option, result
from gateway.operations.schemas import Status


@click.command()
@click.option("--ready", is_flag=True, help="Ask whether posts can be accepted, not only whether the process lives.")
@json_option
@admin_option
def health(address: ListenAddress, *, ready: bool) -> None:
    """Ask the admin listener for /healthz, or with --ready for /readyz.

    Exits with 0 if so, with 1 if it is not ready, with 3 if nothing answers. It finds the listener as all commands do,
    by TLS or a Unix socket where that is so: a probe need not know it.
    """
    with explained():
        ask(address, "healthz")
        status = msgspec.json.decode(ask(address, "api", "status"), type=Status) if ready else None
    if status is not None and not status.ready:
        complain(f"not ready: {'; '.join(status.reasons)}")
        raise SystemExit(Exit.FAILED)
    word = "ready" if ready else "ok"
    result({"status": word}, word)

"""`callspool run`: the gateway itself."""

from pathlib import Path

import click
import structlog

from gateway.cli.configuration import configuration_options, loaded_or_exit
from gateway.logs import configure_logging


@click.command(short_help="Take call logs, keep them safe, deliver them.")
@configuration_options
def run(file: Path | None, *, local: bool) -> None:
    """Take call logs, keep them safe, and deliver them, until SIGTERM or SIGINT."""
    loaded = loaded_or_exit(file, local=local)
    configure_logging(loaded.settings.log.level, loaded.settings.log.format)
    log = structlog.get_logger("callspool")
    for caution in loaded.cautions:
        log.warning("caution", about=caution)
    # The other commands start without loading the gateway.
    from gateway.assembly import Assembly  # noqa: PLC0415  # see above

    # The other commands start without loading the gateway.
    from gateway.lifecycle import serve  # noqa: PLC0415  # see above

    raise SystemExit(serve(Assembly(loaded.settings)))

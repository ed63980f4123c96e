"""`callspool run`: the gateway itself."""

import os
from pathlib import Path

import click
import structlog

from config.loader import load
from config.settings import IoClass, PrioritySettings
from gateway.cli.options import certificate_findings, configuration_options, loaded_or_exit, warnings_of
from gateway.logs import configure_logging
from gateway.process import Priority, give_way
from gateway.runtime import lifecycle
from gateway.runtime.own_intake import own_intake_warnings


@click.command()
@configuration_options
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line, whatever log.format says.")
def run(file: Path | None, *, local: bool, as_json: bool) -> None:
    """Accept call logs, store them durably and deliver them, until SIGTERM or SIGINT."""
    loaded = loaded_or_exit(file, local=local)
    # Before anything has threads, the one that writes the log included: they inherit it.
    refused = list(give_way(_priority(loaded.settings.priority)))
    configure_logging(loaded.settings.log.level, as_text=False if as_json else loaded.settings.log.format.as_text)
    log = structlog.get_logger("callspool")
    # An expired certificate ends no gateway: who renews it changes the file.
    errors, doubts = certificate_findings(loaded)
    for warning in (*warnings_of(loaded), *errors, *doubts, *own_intake_warnings(loaded.settings)):
        log.warning("configuration", about=warning)
    for reason in refused:
        log.warning("priority", refused=reason)
    raise SystemExit(lifecycle.serve(loaded, lambda: load(file, os.environ, local=local)))


def _priority(settings: PrioritySettings) -> Priority:
    """What is to be set."""
    kind = None if settings.io_class is IoClass.DEFAULT else settings.io_class.value
    return Priority(settings.nice, kind, settings.io_level)

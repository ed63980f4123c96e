"""The programs that stay: `callspool run`, a gateway, and `callspool work`, a worker."""

import os
from pathlib import Path

import click
import structlog

from config.loader import load
from config.settings import IoClass, PrioritySettings
from gateway.cli import Exit
from gateway.cli.options import config_option, configuration_options, findings_of, loaded_or_exit
from gateway.cli.output import complain
from gateway.logs import configure_logging
from gateway.process import Priority, give_way
from gateway.runtime import lifecycle, worker


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
    errors, warnings = findings_of(loaded)
    for warning in (*errors, *warnings):
        log.warning("configuration", about=warning)
    for reason in refused:
        log.warning("priority", refused=reason)
    raise SystemExit(lifecycle.serve(loaded, lambda: load(file, os.environ, local=local)))


def _priority(settings: PrioritySettings) -> Priority:
    """What is to be set."""
    kind = None if settings.io_class is IoClass.DEFAULT else settings.io_class.value
    return Priority(settings.nice, kind, settings.io_level)


# `callspool work`: reads Kafka and writes into a store, or works on calls after they ended.


@click.command()
@config_option
@click.option("--pipeline", is_flag=True, help="Work on calls after they ended, and read no Kafka: docs/pipeline.md.")
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line, whatever log.format says.")
def work(file: Path | None, *, pipeline: bool, as_json: bool) -> None:
    """Read events of calls from Kafka and write them into a store, until SIGTERM or SIGINT.

    CALLSPOOL_KAFKA_BROKERS and CALLSPOOL_DATABASE_URL are all it needs. Workers of one group share the partitions; each
    needs a name of its own (work.instance, by default the host's). With --pipeline it needs the store alone.
    """
    settings = loaded_or_exit(file, local=False).settings
    configure_logging(settings.log.level, as_text=False if as_json else settings.log.format.as_text)
    try:
        if pipeline:
            from gateway.runtime.pipeline import serve  # noqa: PLC0415  # models, which others need not import

            raise SystemExit(serve(settings))
        raise SystemExit(worker.serve(settings))
    except worker.NotConfigured as error:
        complain(f"{error}.")
        raise SystemExit(Exit.USAGE) from None

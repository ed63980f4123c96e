"""`callspool work`: a worker, which reads Kafka and writes into a store."""

from pathlib import Path

import click

from gateway.cli.exits import Exit
from gateway.cli.options import loaded_or_exit
from gateway.cli.output import complain
from gateway.logs import configure_logging
from gateway.runtime import worker


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file with settings.  [env var: CALLSPOOL_CONFIG]",
)
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
            from gateway.runtime import pipeline_worker  # noqa: PLC0415  # it imports what others need not

            raise SystemExit(pipeline_worker.serve(settings))
        raise SystemExit(worker.serve(settings))
    except worker.NotConfigured as error:
        complain(f"{error}.")
        raise SystemExit(Exit.USAGE) from None

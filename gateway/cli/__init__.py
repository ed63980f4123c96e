"""The command line: `callspool run`, `status`, `dead list` and the others.

`run`, `check-config`, `s3` and `fsck` read the configuration; `status`, `show`, `dead` and `deliveries` ask a running
gateway through its admin API, `outbox import` posts to its intake. `salvage` and `adopt` do either.
"""

import click

from gateway.cli.chaos import chaos
from gateway.cli.check_config import check_config
from gateway.cli.dead import dead
from gateway.cli.deliveries import deliveries
from gateway.cli.exits import EPILOG
from gateway.cli.fsck import fsck
from gateway.cli.outbox import outbox
from gateway.cli.resume import resume
from gateway.cli.run import run
from gateway.cli.s3 import s3
from gateway.cli.salvage import adopt, salvage
from gateway.cli.show import show
from gateway.cli.status import status
from gateway.cli.version import version


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="callspool", prog_name="callspool", message="%(prog)s %(version)s")
def main() -> None:
    """A durable ingest gateway for the call logs of AI voice agents."""


for _command in (
    run, check_config, status, show, resume, dead, deliveries, s3, fsck, salvage, adopt, outbox, chaos, version,
):  # fmt: skip
    main.add_command(_command)

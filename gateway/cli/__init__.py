"""The command line: `callspool run`, `status`, `dead list` and the others.

`run`, `check-config`, `s3` and `fsck` read the configuration; `status`, `show`, `dead` and `deliveries` ask a running
gateway through its admin API, `outbox import` posts to its intake. `salvage` and `adopt` do either.
"""

import click

from gateway.cli.exits import EPILOG
from gateway.cli.on_demand import OnDemandGroup


@click.group(
    cls=OnDemandGroup,
    modules={
        "run": "run",
        "check-config": "check_config",
        "status": "status",
        "show": "show",
        "resume": "resume",
        "dead": "dead",
        "deliveries": "deliveries",
        "s3": "s3",
        "fsck": "fsck",
        "salvage": "salvage",
        "adopt": "salvage",
        "outbox": "outbox",
        "chaos": "chaos",
        "version": "version",
    },
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="callspool", prog_name="callspool", message="%(prog)s %(version)s")
def main() -> None:
    """A durable ingest gateway for the call logs of AI voice agents."""

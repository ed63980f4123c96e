"""The command line: `callspool run`, `status`, `dead list` and the others.

`run`, `check-config`, `s3` and `fsck` read the configuration; `status`, `show`, `dead` and `deliveries` ask a
running gateway through its admin API, `outbox import` posts to its intake. `salvage` and `adopt` do either.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Any

import click

from gateway.cli.exits import EPILOG
from gateway.cli.streams import secure_standard_streams

# Subcommands that are loaded when they are asked for: what one of them imports, the others need not wait for.


class OnDemandGroup(click.Group):
    """A group whose commands are found by the name of their module.

    `modules` says for each command which module holds it, under the command's own name (with underscores). They
    are listed in sorted order, as click does.
    """

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """All names, for the help and for completion."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """The command of this name; None where there is none."""
        if cmd_name not in self._modules:
            return None
        module = import_module(self._modules[cmd_name])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(
    cls=OnDemandGroup,
    modules={
        "run": "gateway.cli.run",
        "check-config": "gateway.cli.check_config",
        "status": "gateway.cli.status",
        "show": "gateway.cli.tables",
        "resume": "gateway.cli.status",
        "dead": "gateway.cli.dead",
        "deliveries": "gateway.cli.deliveries",
        "s3": "gateway.cli.s3",
        "fsck": "gateway.cli.fsck",
        "salvage": "gateway.cli.salvage",
        "adopt": "gateway.cli.salvage",
        "outbox": "gateway.cli.outbox",
        "chaos": "gateway.cli.chaos",
        "version": "gateway.cli",
    },
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="callspool", prog_name="callspool", message="%(prog)s %(version)s")
def main() -> None:
    """A durable ingest gateway for the call logs of AI voice agents."""
    secure_standard_streams()


# `callspool version`.


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"callspool {installed_version('callspool')}")

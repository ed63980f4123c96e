"""`callspool reload`: a running gateway reads its settings again."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import admin_option, explained, tell
from gateway.cli.exits import Exit
from gateway.cli.output import complain, output, plain
from gateway.operations.schemas import Reloaded


@click.command(short_help="Apply changed settings to a running gateway.")
@admin_option
def reload(address: ListenAddress) -> None:
    """Let the running gateway read its file, its environment and the files of its secrets again.

    They are checked first, and applied whole or not at all. What needs a restart is named.
    """
    with explained():
        result = msgspec.json.decode(tell(address, b"{}", "api", "reload"), type=Reloaded)
    for problem in result.problems:
        complain(problem)
    for name in result.needs_restart:
        complain(f"{name} changed, which only a restart applies.")
    if not result.applied:
        complain("Nothing was applied; the gateway goes on with the settings that it has.", style="")
        raise SystemExit(Exit.FAILED)
    output().print(plain("The settings are right and are being applied.", "green"))

"""`callspool reload`: a running gateway reads its settings again."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import admin_option, explained, tell
from gateway.cli.exits import Exit
from gateway.cli.output import complain, json_option, result
from gateway.operations.schemas import Reloaded


@click.command(short_help="Apply changed settings to a running gateway.")
@json_option
@admin_option
def reload(address: ListenAddress) -> None:
    """Let the running gateway read its file, its environment and the files of its secrets again.

    They are checked first, and applied whole or not at all. What needs a restart is named.
    """
    with explained():
        reloaded = msgspec.json.decode(tell(address, b"{}", "api", "reload"), type=Reloaded)
    for problem in reloaded.problems:
        complain(problem)
    for name in reloaded.needs_restart:
        complain(f"{name} changed, which only a restart applies.", style="yellow")
    if not reloaded.applied:
        complain("Nothing was applied; the gateway goes on with the settings that it has.", style="")
        raise SystemExit(Exit.FAILED)
    result(reloaded, "The settings are right and are being applied.")

"""`callspool check-config`: the settings in effect, where each comes from, and whether endpoints answer."""

from pathlib import Path
from typing import TextIO

import click

from config.loader import DEFAULT, Loaded, effective_settings
from gateway.cli.exits import Exit
from gateway.cli.options import certificate_findings, configuration_options, loaded_or_exit, warnings_of
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, table
from gateway.runtime.own_intake import addresses_of, own_intake_warnings


@click.command("check-config")
@configuration_options
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="Post marked test records to HTTP destinations; ask Kafka about topics, stores about missing rights.",
)
@click.option(
    "--probe-token",
    type=click.File(),
    metavar="FILE",
    help="File with a token for the probe (- for stdin), for destinations without a token of their own.",
)
@click.option("--probe-agent-id", default="callspool-probe", show_default=True, help="agent_id of the test records.")
@json_option
def check_config(
    file: Path | None, *, local: bool, with_probe: bool, probe_token: TextIO | None, probe_agent_id: str
) -> None:
    """Show the settings in effect and where each comes from. Secrets are masked."""
    loaded = loaded_or_exit(file, local=local)
    _show_settings(loaded)
    errors, doubts = certificate_findings(loaded)
    for warning in (*warnings_of(loaded), *doubts, *own_intake_warnings(loaded.settings, addresses_of)):
        complain(f"warning: {warning}", style="yellow")
    for error in errors:
        complain(f"error: {error}")
    if errors:
        raise SystemExit(Exit.FAILED)
    if with_probe:
        from gateway.cli.probing import probe_all  # noqa: PLC0415  # without --probe no uploader is loaded

        token = probe_token.read().strip() if probe_token else None
        if not probe_all(loaded.settings, token=token, agent_id=probe_agent_id):
            raise SystemExit(Exit.FAILED)


def _show_settings(loaded: Loaded) -> None:
    if as_json():
        settings = [
            {"setting": each.key, "value": each.value, "from": each.origin} for each in effective_settings(loaded)
        ]
        print_json({"settings": settings})
        return
    shown = table("Setting", "Value", "From")
    for each in effective_settings(loaded):
        given = each.origin != DEFAULT
        shown.add_row(
            plain(each.key), plain(each.value, "bold" if given else ""), plain(each.origin, "" if given else "dim")
        )
    output().print(shown)

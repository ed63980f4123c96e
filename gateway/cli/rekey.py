"""`callspool rekey`: bring all that is in a spool under its current key, in a running gateway or a stopped spool."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import NoGateway, admin_address, converse, explained
from gateway.cli.exits import Exit
from gateway.cli.options import loaded_or_exit, spool_option
from gateway.cli.output import complain, output, plain, progress_bar
from gateway.cli.salvage import in_own_spool
from gateway.formatting import count_text
from gateway.operations.rekey import RekeyFailed, RekeyLine, RekeyReport, carry_out
from gateway.operations.salvage import Progress
from spool.db.connection import rewrite
from spool.directory import DATABASE_NAME, is_owned
from spool.errors import SpoolError

_decode = msgspec.json.Decoder(RekeyLine).decode


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@spool_option
@admin_address
def rekey(file: Path | None, address: ListenAddress, *, as_json: bool) -> None:
    """Wrap all keys of the spool by the current main key, and encrypt what lies plain in it.

    A running gateway does it beside its work; where none runs, the configured spool is opened, and its database written
    anew at the end, so that nothing plain is left in gaps of its pages. It may be killed at any time, and goes on where
    it was. Afterwards older keys are not needed any more.
    """
    report: RekeyReport | None = None
    with explained(), progress_bar() as tell:
        for line in _lines(file, address):
            match line:
                case Progress():
                    tell(line.what, line.done, line.total)
                case RekeyFailed():
                    complain(f"{line.reason}.", hint="What was done before stays; run it again.")
                    raise SystemExit(Exit.FAILED)
                case RekeyReport():
                    report = line
    if report is None:
        complain("The gateway ended before it was done: run it again, and it goes on.")
        raise SystemExit(Exit.FAILED)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
        return
    done = f"{count_text(report.records)} call logs, {count_text(report.tokens)} tokens and {count_text(report.spans)} "
    output().print(plain(f"Everything is under key {report.key_id}.", "bold green"))
    output().print(plain(f"{done}posts of spans lay plain; {count_text(report.epochs)} keys were wrapped anew."))
    output().print(
        plain("Older keys can be taken out of the file of keys, once no copy of this spool needs them.", "dim")
    )


def _lines(file: Path | None, address: ListenAddress) -> Iterator[RekeyLine]:
    """The lines of the gateway's answer, or of the work in this process."""
    try:
        for raw in converse(address, b"{}", "api", "rekey"):
            if raw.strip():
                yield _decode(raw)
    except NoGateway:
        directory = loaded_or_exit(file, local=True).settings.spool.dir.absolute()
        if is_owned(directory):
            raise
        yield from in_own_spool(file, lambda spool: carry_out(spool.rekeying))
        yield Progress("writing the database anew", 0, 0)
        try:
            rewrite(directory / DATABASE_NAME)
        except SpoolError as error:
            yield RekeyFailed(str(error))

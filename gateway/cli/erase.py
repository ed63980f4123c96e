"""`callspool erase`: takes all of a call, a caller or an agent out of wherever a gateway reaches."""

import os
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import admin_option, converse, explained
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, progress_bar, table
from gateway.operations.erasure import ErasedPlace, ErasureLine, ErasureOrder, ErasureProgress, ErasureReport
from gateway.operations.schemas import DOCUMENTS, INDEX, DeadLetter

_decode_line = msgspec.json.Decoder(ErasureLine).decode
_decode_letter = msgspec.json.Decoder(DeadLetter).decode


@click.command(short_help="Erase calls wherever the gateway reaches them.")
@click.option("--call-id", "call_ids", multiple=True, metavar="ID", help="This call; can be given several times.")
@click.option("--phone", metavar="NUMBER", help="All calls of this number, written as the call logs have it.")
@click.option("--agent", metavar="ID", help="All calls of this agent.")
@click.option(
    "--exports", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIRECTORY",
    help="Also from what `callspool dead export` wrote here; can be given several times.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what there is, and erase nothing.")
@json_option
@admin_option
def erase(
    call_ids: tuple[str, ...], phone: str | None, agent: str | None, exports: tuple[Path, ...],
    address: ListenAddress, *, dry_run: bool,
) -> None:  # fmt: skip
    """Erase calls from queue, dead letters, receipts, stores, delivered files, buckets, and what was made of them.

    An id is erased for every tenant that has a call of it.

    Later posts of the calls are refused for a while (`erasure.later_posts`). What was delivered to an endpoint or to
    Kafka is for its owner to erase; the report names all that was not reached, and the exit code is then 1. It can be
    interrupted, and given again: the next order finishes what this one began.
    """
    order = ErasureOrder(call_ids, phone, agent, dry_run)
    if not order.selects:
        raise click.UsageError("Say which calls: --call-id, --phone or --agent.")
    with explained(), progress_bar() as tell:
        report: ErasureReport | None = None
        for raw in converse(address, msgspec.json.encode(order), "api", "erasures"):
            if not raw.strip():
                continue
            line = _decode_line(raw)
            if isinstance(line, ErasureProgress):
                tell(line.what, line.done, line.total)
            else:
                report = line
    if report is None:
        complain("The gateway stopped before the end.", hint="Order it again: what was begun is finished then.")
        raise SystemExit(Exit.FAILED)
    places = [_erase_export(directory, report.call_ids, dry_run=dry_run) for directory in exports]
    report = msgspec.structs.replace(report, places=(*report.places, *places))
    _show(report)
    if not report.complete:
        raise SystemExit(Exit.FAILED)


def _erase_export(directory: Path, call_ids: Sequence[str], *, dry_run: bool) -> ErasedPlace:
    """Delete the documents of these calls in an export, and their lines in its index."""
    place, wanted = f"export {directory}", set(call_ids)
    try:
        header, *lines = (directory / INDEX).read_bytes().splitlines(keepends=True)
        letters = [_decode_letter(line) for line in lines]
        gone = [letter for letter in letters if letter.call_id in wanted]
        if not dry_run and gone:
            for letter in gone:
                if letter.file is not None:
                    (directory / DOCUMENTS / Path(letter.file).name).unlink(missing_ok=True)
            kept = [line for line, letter in zip(lines, letters, strict=True) if letter.call_id not in wanted]
            written = directory / f".{INDEX}.partial"
            with written.open("wb") as index:
                index.writelines([header, *kept])
                index.flush()
                os.fsync(index.fileno())
            written.replace(directory / INDEX)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        return ErasedPlace(place, {}, f"it cannot be read or changed: {error}")
    return ErasedPlace(place, {"documents": len(gone)} if gone else {})


def _show(report: ErasureReport) -> None:
    if as_json():
        print_json({**msgspec.to_builtins(report), "complete": report.complete})
        return
    shown = table("Place", "Found" if report.dry_run else "Erased", "Not reached")
    for place in report.places:
        what = ", ".join(f"{count} {name}" for name, count in place.found.items()) or "nothing"
        shown.add_row(plain(place.place), plain(what), plain(place.unreached or "-", "red" if place.unreached else ""))
    output().print(shown)
    calls = f"{len(report.call_ids)} {'call' if len(report.call_ids) == 1 else 'calls'}"
    if report.dry_run:
        output().print(plain(f"{calls}; nothing was erased.", "dim"))
    elif report.complete:
        output().print(plain(f"{calls} erased.", "green"))
    else:
        complain(f"{calls} erased, but not everywhere.", hint="The table says what is left, and why.")
    if report.unfinished:
        output().print(plain(f"An earlier order was finished: {report.unfinished} more.", "dim"))

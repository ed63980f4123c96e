"""`callspool erase`: takes all of a call, a caller or an agent out of wherever a gateway reaches."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import NO_LAST_LINE, BrokenOff, admin_option, converse, explained
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, progress_bar, table
from gateway.formatting import count_text, counted
from gateway.operations.erasure import (
    ErasedPlace,
    ErasureFailed,
    ErasureLine,
    ErasureOrder,
    ErasureProgress,
    ErasureReport,
    MatchedCall,
)
from gateway.operations.schemas import DOCUMENTS, INDEX, SEALED_SUFFIX, DeadLetter
from spool.errors import SpoolError
from spool.payload.frames import decode_stream
from uploaders.durable_file import DurableFile, sync_directory
from uploaders.phone_numbers import PhoneNumberMatcher
from uploaders.stores.parts import read_head

_AGAIN = "Run it again: that finishes what was begun."
_decode_line = msgspec.json.Decoder(ErasureLine).decode
_decode_letter = msgspec.json.Decoder(DeadLetter).decode


@click.command(short_help="Erase calls wherever the gateway reaches them.")
@click.option("--call-id", "call_ids", multiple=True, metavar="ID", help="This call; can be given several times.")
@click.option("--phone", metavar="NUMBER", help="All calls of this number, however the call logs write it.")
@click.option("--agent", metavar="ID", help="All calls of this agent.")
@click.option("--tenant", metavar="NAME", help="Only calls of this tenant.  [default: all tenants]")
@click.option(
    "--country", metavar="CODE",
    help="Country of numbers without a country code, such as DE.  [default: erasure.country]",
)  # fmt: skip
@click.option(
    "--exports", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIRECTORY",
    help="Also from what `callspool dead export` wrote here; can be given several times.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be erased; erase nothing.")
@json_option
@admin_option
def erase(
    call_ids: tuple[str, ...], phone: str | None, agent: str | None, tenant: str | None, country: str | None,
    exports: tuple[Path, ...], address: ListenAddress, *, dry_run: bool,
) -> None:  # fmt: skip
    """Erase calls from queue, dead letters, receipts, stores, delivered files, buckets, and what was made of them.

    Without `--tenant` an id is erased for every tenant that has a call of it. What `--phone` and `--agent` find is
    erased of the tenant that it was found of. A number is found in every writing, and no other number is taken for it;
    `--dry-run` shows what was found, and where.

    Later posts of the calls are refused for a while (`erasure.later_posts`). What was delivered to an endpoint or to
    Kafka is for its owner to erase; the report names all that was not reached, and the exit code is then 1. It can be
    interrupted, and given again: the next order finishes what this one began.
    """
    order = ErasureOrder(call_ids, phone, agent, tenant, country, dry_run)
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
            elif isinstance(line, ErasureFailed):
                complain(f"The erasure failed: {line.reason}.", hint=_AGAIN)
                raise SystemExit(Exit.FAILED)
            else:
                report = line
        if report is None:
            raise BrokenOff(NO_LAST_LINE)
    if exports:
        places = [_erase_export(directory, order, report) for directory in exports]
        report = msgspec.structs.replace(report, places=(*report.places, *places))
    _show(order, report)
    if not report.complete:
        raise SystemExit(Exit.FAILED)


def _erase_export(directory: Path, order: ErasureOrder, report: ErasureReport) -> ErasedPlace:
    """Delete the documents of these calls in an export, and their lines in its index."""
    place = f"export {directory}"
    try:
        header, *lines = (directory / INDEX).read_bytes().splitlines(keepends=True)
        letters = [_decode_letter(line) for line in lines]
        wanted, unsearched = _wanted(directory, letters, order, report)
        gone = [letter for letter in letters if (letter.call_id, letter.tenant) in wanted]
        if not order.dry_run and gone:
            for letter in gone:
                if letter.file is not None:
                    (directory / DOCUMENTS / Path(letter.file).name).unlink(missing_ok=True)
            kept = [
                line
                for line, letter in zip(lines, letters, strict=True)
                if (letter.call_id, letter.tenant) not in wanted
            ]
            if (directory / DOCUMENTS).is_dir():
                sync_directory(directory / DOCUMENTS)
            index = DurableFile(directory, directory / INDEX)
            try:
                index.open()
                index.write(b"".join([header, *kept]))
                index.commit()
            finally:
                index.discard()
    except (OSError, ValueError, msgspec.MsgspecError, SpoolError) as error:
        return ErasedPlace(place, {}, f"it cannot be read or changed: {error}")
    return ErasedPlace(place, {"documents": len(gone)} if gone else {}, unsearched=unsearched)


def _wanted(
    directory: Path, letters: Sequence[DeadLetter], order: ErasureOrder, report: ErasureReport
) -> tuple[set[tuple[str, str | None]], str | None]:
    """The calls of an export that are meant, by id and tenant; and what of it could not be searched."""
    found = {(match.call_id, match.tenant or None) for match in report.matched}
    ours = [letter for letter in letters if order.tenant in {None, letter.tenant}]
    wanted = {
        (letter.call_id, letter.tenant)
        for letter in ours
        if (letter.call_id, letter.tenant) in found
        or letter.call_id in order.call_ids
        or (order.agent is not None and letter.agent_id == order.agent)
    }
    closed = 0
    if order.phone is not None:
        matcher = PhoneNumberMatcher(order.phone, report.country)
        for letter in ours:
            if (letter.call_id, letter.tenant) in wanted or letter.file is None:
                continue
            path = directory / DOCUMENTS / Path(letter.file).name
            if path.name.endswith(SEALED_SUFFIX):
                closed += 1
            elif path.is_file() and matcher.matches(
                read_head(b"".join(decode_stream(path.read_bytes()))).customer_number
            ):
                wanted.add((letter.call_id, letter.tenant))
    unsearched = [f"{closed} encrypted documents, whose numbers were not read"] if closed else []
    nobodys = sum(
        letter.tenant is None and (letter.call_id, None) not in wanted and letter.call_id in report.call_ids
        for letter in letters
    )
    if nobodys:
        unsearched.append(f"{nobodys} documents that do not say whose they are: an older version wrote them")
    return wanted, "; ".join(unsearched) or None


_SHOWN_MATCHES = 50


def _show(order: ErasureOrder, report: ErasureReport) -> None:
    if as_json():
        print_json({**msgspec.to_builtins(report), "complete": report.complete})
        return
    if order.phone is not None:
        read = f"as {report.number}" if report.number else "as it is written: it cannot be read as a number"
        output().print(plain(f"{order.phone} was looked for {read}."))
    _show_matches("Call", report.matched)
    shown = table("Place", "Found" if report.dry_run else "Erased", "Not reached")
    for place in report.places:
        what = ", ".join(f"{name}: {count_text(count)}" for name, count in place.found.items()) or "nothing"
        shown.add_row(plain(place.place), plain(what), plain(place.unreached or "-", "red" if place.unreached else ""))
    output().print(shown)
    for place in report.places:
        if place.unsearched:
            output().print(plain(f"Not searched in {place.place}: {place.unsearched}.", "yellow"))
    if report.possible:
        _show_matches("Perhaps of this caller, not erased", report.possible)
        output().print(
            plain("Only their receipts are left: `--call-id` erases those that are this caller's.", "yellow")
        )
    _show_tenants(order, report)
    calls = counted(sum(report.tenants.values()) or len(report.call_ids), "call")
    if report.dry_run:
        output().print(plain(f"{calls}; nothing was erased.", "dim"))
    elif report.complete:
        output().print(plain(f"{calls} erased.", "green"))
    else:
        complain(f"{calls} erased, but not everywhere.", hint="The table says what is left, and why.")
    if report.unfinished:
        output().print(plain(f"An earlier order was finished: {report.unfinished} more.", "dim"))


def _show_matches(title: str, matches: Sequence[MatchedCall]) -> None:
    if not matches:
        return
    shown = table(title, "Tenant", "Number as written", "Found in")
    for match in matches[:_SHOWN_MATCHES]:
        shown.add_row(*map(plain, (match.call_id, match.tenant or "-", match.number or "-", match.place)))
    output().print(shown)
    if len(matches) > _SHOWN_MATCHES:
        output().print(plain(f"... and {len(matches) - _SHOWN_MATCHES} more: --json shows all.", "dim"))


def _show_tenants(order: ErasureOrder, report: ErasureReport) -> None:
    """Whose calls an order reaches, where there are tenants."""
    if not report.tenants:
        return
    whose = ", ".join(f"{count} of {name or 'no tenant'}" for name, count in sorted(report.tenants.items()))
    reached = "Reached" if not report.dry_run else "Reaches"
    output().print(plain(f"{reached} calls of tenants: {whose}.", "yellow" if len(report.tenants) > 1 else ""))
    if len(report.tenants) > 1 and order.call_ids and order.tenant is None:
        output().print(plain("An id is erased for every tenant that has it; `--tenant` takes those of one.", "yellow"))

"""`callspool dead import`: bring exported dead letters into a spool, as deliveries that are queued."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TextIO

import click
import msgspec

from config.addresses import ListenAddress
from gateway.cli.admin_client import Refused, admin_option, send
from gateway.cli.asking import explained
from gateway.cli.exits import Exit
from gateway.cli.output import complain, output, plain
from gateway.cli.progress_bar import progress_bar
from gateway.humane import count_text
from gateway.orders.exported import DOCUMENTS, FORMAT, INDEX, LETTER_TYPE, Brought, BroughtIn, Document, Header, Letter
from spool.records import Form

BLOCK_BYTES = 1 << 20

_TOLD = 10
"""So many failures are told one by one: the others are likely to have the same reason."""

_decode_letter = msgspec.json.Decoder(Letter).decode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_answer = msgspec.json.Decoder(BroughtIn).decode
_encode = msgspec.json.Encoder().encode


@click.command("import", short_help="Bring exported dead letters into a spool.")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--to", required=True, metavar="NAME", help="The destination that they are to be delivered to.")
@click.option("--from", "origin", metavar="NAME", help="Only those that were dead letters of this destination.")
@click.option("--key", "file", type=click.File(), metavar="FILE", help="Where a key to send with stands; - is stdin.")
@click.option("--dry-run", is_flag=True, help="Say what would be brought in, and change nothing.")
@admin_option
def import_(
    directory: Path, address: ListenAddress, *, to: str, origin: str | None, file: TextIO | None, dry_run: bool
) -> None:
    """Queue what `callspool dead export` wrote into DIRECTORY for a destination of this gateway.

    Idempotency keys stay, checksums are verified, and what is here already is not brought in twice. Agents' keys were
    never exported: where the destination forwards them, give one with --key, or later with `deliveries retoken`.
    """
    found = list(_call_logs(directory, origin))
    if dry_run:
        output().print(plain(f"Would bring in {count_text(len(found))} call logs. Nothing was changed."))
        return
    key = None if file is None else file.read().strip()
    outcomes: Counter[str] = Counter()
    with explained(), progress_bar() as tell:
        for done, letters in enumerate(found, 1):
            outcome, problem = _bring(directory, address, letters, to, key)
            outcomes[outcome] += 1
            if problem and outcomes[outcome] <= _TOLD:
                complain(problem)
            tell("import", done, len(found))
    output().print(plain(f"Brought in {count_text(outcomes['new'])} call logs for {to}.", "green"))
    if outcomes["known"]:
        complain(f"{count_text(outcomes['known'])} were here already.", style="dim")
    if outcomes["failed"]:
        complain(f"{count_text(outcomes['failed'])} could not be brought in.")
        raise SystemExit(Exit.FAILED)


def _call_logs(directory: Path, origin: str | None) -> Iterator[list[Letter]]:
    """The letters of each call log, one of each form; ends the command where this is no export."""
    try:
        with (directory / INDEX).open("rb") as index:
            if _decode_header(index.readline()).format != FORMAT:
                raise ValueError(f"it is not {FORMAT}")
            letters = [_decode_letter(line) for line in index]
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        hint = "`callspool dead export` writes one."
        complain(f"{directory / INDEX} is no index of dead letters: {error}", hint=hint)
        raise SystemExit(Exit.FAILED) from None
    wanted = [one for one in letters if origin in (None, one.destination) and one.file is not None]
    for _, of_record in groupby(wanted, key=lambda one: one.record_id):
        # A notice tells of an object in the bucket of the gateway that exported it.
        forms = {one.form: one for one in of_record if one.form != Form.NOTICE}
        if forms:
            yield list(forms.values())


def _bring(directory: Path, address: ListenAddress, letters: list[Letter], to: str, key: str | None) -> tuple[str, str]:
    """Bring in one call log; what came of it (new, known or failed), and why it failed."""
    first = letters[0]
    brought = Brought(
        to=to,
        record_id=first.record_id,
        call_id=first.call_id,
        agent_id=first.agent_id,
        event=first.event,
        environment=first.environment,
        documents=tuple(Document(form=one.form, bytes=one.file_bytes, sha256=one.sha256 or "") for one in letters),
        key=key,
    )
    line = _encode(brought) + b"\n"
    size = len(line) + sum(one.file_bytes for one in letters)
    files = [directory / DOCUMENTS / Path(one.file or "").name for one in letters]
    try:
        body = send(address, LETTER_TYPE, _blocks(line, files, letters), size, "api", "letters")
    except (Refused, _BadFile) as error:
        return "failed", f"{first.record_id} of call {first.call_id}: {error}"
    return ("known" if _decode_answer(body).duplicate else "new"), ""


class _BadFile(Exception):
    """A document is missing, or not as long as the index says."""


def _blocks(line: bytes, files: list[Path], letters: list[Letter]) -> Iterator[bytes]:
    """What is sent: the line, then the documents one after the other."""
    yield line
    for path, letter in zip(files, letters, strict=True):
        left = letter.file_bytes
        try:
            with path.open("rb") as file:
                while left and (block := file.read(min(left, BLOCK_BYTES))):
                    left -= len(block)
                    yield block
        except OSError as error:
            raise _BadFile(f"{path} cannot be read: {error.strerror or error}") from error
        if left:
            raise _BadFile(f"{path} is {left} bytes too short")

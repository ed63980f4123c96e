"""`callspool dead`: look at dead letters, send them again, give them up."""

import errno
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from config.values import ListenAddress, split_tokens
from gateway.cli import Exit, KeyFile
from gateway.cli.client import (
    NoGateway,
    Refused,
    Span,
    admin_option,
    ask,
    download,
    explained,
    send,
    settings_of_gateway,
)
from gateway.cli.deliveries import Wording, count_of, give, ordering, require_selection
from gateway.cli.output import complain, json_option, output, progress_bar, result
from gateway.cli.tables import (
    dead_letters,
    entries,
    limit_option,
    list_entries,
    report,
    require_known,
    select_by,
    selecting,
)
from gateway.formatting import bytes_text, count_text, counted
from gateway.operations.schemas import (
    DOCUMENTS,
    FORMAT,
    IMPORT_TYPE,
    INDEX,
    SEALED_SUFFIX,
    DeadLetter,
    DeliveryEntry,
    DeliveryReport,
    Document,
    Header,
    ImportHeader,
    ImportResult,
    OrderName,
    OrderRequest,
    Select,
    document_name,
)
from spool.errors import SpoolError
from spool.keys import KeyRing
from spool.records import Form
from spool.stats import HELD_WITH_DEAD
from uploaders.durable_file import DurableFile, make_directories

_KEY = "CALLSPOOL_SPOOL_KEY"


def _ring(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> KeyRing | None:
    """The keys in a file, if one is named; else those of the environment or the gateway's configuration."""
    where = _KEY if path is None else path
    try:
        ring = KeyRing.parse(_configured_keys() if path is None else split_tokens(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{where} holds no key of a spool: {error}") from None
    if path is not None and not ring.keys:
        raise click.BadParameter(f"{path} holds no key of a spool: it is empty")
    return ring if ring.keys else None


def _configured_keys() -> list[str]:
    """The spool's keys as the gateway would be given them. Raises `ValueError` where a source gives none."""
    from config.secret_sources import SecretSources  # noqa: PLC0415  # no other command needs it

    sources = SecretSources()
    given = sources.variables(os.environ, (_KEY,)).get(_KEY)
    if sources.problems:
        raise ValueError(str(sources.problems[0]))
    if given:
        return split_tokens(given)
    settings = settings_of_gateway(read_secrets=True)
    if settings is None and settings_of_gateway() is not None:
        raise ValueError("the configuration's secrets cannot be read by this user; name a file with --spool-key-file")
    return [] if settings is None else [key.get_secret_value() for key in settings.spool.key]


_key_file = click.option(
    "--spool-key-file", "ring", type=click.Path(path_type=Path, dir_okay=False, exists=True), callback=_ring,
    metavar="FILE", help=f"File with the spool's key.  [default: as configured, {_KEY} or {_KEY}_FILE]",
)  # fmt: skip

# `callspool dead export`: dead letters with what they carry, into a folder that needs no callspool to be read.

_encode = msgspec.json.Encoder().encode


@click.command(short_help="Write dead letters and their payloads to a folder.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@selecting
@click.option("--all", "everything", is_flag=True, help="Select all; required without a filter.")
@_key_file
@json_option
@admin_option
def export(
    address: ListenAddress, directory: Path, *, everything: bool, ring: KeyRing | None, **selection: Any
) -> None:
    """Write dead letters to DIRECTORY: an index, and a .json.zst for each payload.

    With a key of the spool, payloads are encrypted with it; the index, without anything that was said, is not.
    Includes what is held for a dead core (its detail, its notice). Nothing is removed from the spool. Agents' keys are
    never exported.
    """
    selects = select_by(("dead",), **selection)
    require_selection(selects, everything=everything)
    if os.path.lexists(directory / INDEX):
        complain(f"{directory} holds an export already: its {INDEX} would be replaced.", hint="Name another directory.")
        raise SystemExit(Exit.USAGE)
    with explained():
        total, _ = count_of(address, OrderName.REPLAY, [OrderRequest(select=select) for select in selects])
        if not total:
            require_known(address, selects)
        try:
            written, unread, size = _Export(address, directory.absolute(), ring).run(selects, total)
        except OSError as error:
            complain(f"{directory} cannot be written: {error.strerror or error}.")
            raise SystemExit(Exit.FAILED) from None
    summary = {"directory": str(directory), "written": written, "unread": unread, "bytes": size}
    result(summary, f"Wrote {counted(written, 'delivery', 'deliveries')}, {bytes_text(size)}, to {directory}.")
    if unread:
        complain(f"{counted(unread, 'document')} could not be read; the index says why.", style="yellow")


class _Export:
    """One export; what it wrote before it broke off is written again by the next one."""

    def __init__(self, address: ListenAddress, directory: Path, ring: KeyRing | None) -> None:
        self._address = address
        self._directory = directory
        self._main = ring.keys[0] if ring is not None else None

    def run(self, selects: Sequence[Select], total: int) -> tuple[int, int, int]:
        """How many letters were written, how many of their documents could not be read, and how large the rest is."""
        make_directories(self._directory / DOCUMENTS)
        index = DurableFile(self._directory, self._directory / INDEX)
        written = unread = size = 0
        try:
            index.open()
            exported_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            index.write(_line(Header(format=FORMAT, exported_at=exported_at, callspool=version("callspool"))))
            for letter in self._letters(selects, total):
                index.write(_line(letter))
                written += 1
                unread += letter.file is None
                size += letter.file_bytes
            index.commit()
        finally:
            index.discard()
        return written, unread, size

    def _letters(self, selects: Sequence[Select], total: int) -> Iterator[DeadLetter]:
        """Each letter once its document is on the disk; the pages are read as they are needed."""
        found = chain.from_iterable(entries(self._address, select) for select in selects)
        with progress_bar() as tell:
            for done, entry in enumerate(found, 1):
                yield self._letter(entry)
                for follower in self._held_with(entry):
                    yield self._letter(follower)
                tell("export", done, max(done, total))

    def _held_with(self, entry: DeliveryEntry) -> Iterator[DeliveryEntry]:
        """The detail and the notice of a dead core: a discard takes them along, and so must an export before it."""
        if entry.form == Form.CORE:
            held = Select(states=("held",), target=entry.record_id, destination=entry.destination)
            yield from (one for one in entries(self._address, held) if one.reason == HELD_WITH_DEAD)

    def _letter(self, entry: DeliveryEntry) -> DeadLetter:
        name = f"{document_name(entry)}{'' if self._main is None else SEALED_SUFFIX}"
        try:
            digest, size = self._write_document(entry, self._directory / name)
        except (Refused, NoGateway) as error:
            # A damaged document aborts its answer; the gateway itself still runs, or this raises.
            ask(self._address, "healthz")
            return DeadLetter.of(entry, None, None, 0, str(error))
        return DeadLetter.of(entry, name, digest, size, None)

    def _write_document(self, entry: DeliveryEntry, path: Path) -> tuple[str, int]:
        """The document as the spool has it, compressed; its SHA-256 and its size."""
        from spool.payload.frames import seal_document  # noqa: PLC0415  # zstandard, which no other command needs

        file, digest, size = DurableFile(self._directory, path), sha256(), 0
        key = entry.key.split("/", 2)
        try:
            file.open()

            def blocks() -> Iterator[bytes]:
                nonlocal size
                for block in download(self._address, "api", "documents", *key, headers={"Accept-Encoding": "zstd"}):
                    digest.update(block)
                    size += len(block)
                    yield block

            for data in blocks() if self._main is None else seal_document(blocks(), self._main):
                file.write(data)
            file.commit()
        finally:
            file.discard()
        return digest.hexdigest(), size


def _line(document: msgspec.Struct) -> bytes:
    return _encode(document) + b"\n"


# `callspool dead import`: exported dead letters become queued deliveries of this gateway.

BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 20
"""Of an index; an entry has some 500 bytes."""

_SHOWN_FAILURES = 10
"""Failures that are printed: the others are likely to have the same reason."""

_decode_letter = msgspec.json.Decoder(DeadLetter).decode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_answer = msgspec.json.Decoder(ImportResult).decode


@click.command("import", short_help="Queue exported dead letters again.")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--to", required=True, metavar="NAME", help="Destination to deliver them to.")
@click.option("--from", "origin", metavar="NAME", help="Only dead letters of this destination.")
@click.option("--key", type=KeyFile(), metavar="FILE", help="File with the key to send with (- for stdin).")
@click.option("--dry-run", is_flag=True, help="Show what would be imported; change nothing.")
@_key_file
@json_option
@admin_option
def import_(
    directory: Path, address: ListenAddress, *, to: str, origin: str | None, key: str | None, dry_run: bool,
    ring: KeyRing | None,
) -> None:  # fmt: skip
    """Queue what `callspool dead export` wrote to DIRECTORY for a destination of this gateway.

    Keeps idempotency keys, verifies checksums, redacts as the configuration has it, and skips what this spool has.
    Agents' keys are never exported: if the destination forwards them, pass one with --key, or later with `deliveries
    replace-token`.
    """
    found = list(_call_logs(directory, origin))
    if dry_run:
        summary = {"to": to, "call_logs": len(found), "dry_run": True}
        result(summary, f"Would import {count_text(len(found))} call logs. Nothing was changed.", "")
        return
    outcomes: Counter[str] = Counter()
    with explained(), progress_bar() as tell:
        for done, letters in enumerate(found, 1):
            outcome, problem = _import_record(directory, address, letters, to, key, ring or KeyRing())
            outcomes[outcome] += 1
            if problem and outcomes[outcome] <= _SHOWN_FAILURES:
                complain(problem)
            tell("import", done, len(found))
    counts = {outcome: outcomes[outcome] for outcome in ("new", "known", "failed")}
    result({"to": to, **counts}, f"Imported {counted(outcomes['new'], 'call log')} for {to}.")
    if outcomes["known"]:
        complain(f"{counted(outcomes['known'], 'was', 'were')} known already.", style="dim")
    if outcomes["failed"]:
        complain(f"{count_text(outcomes['failed'])} could not be imported.")
        raise SystemExit(Exit.FAILED)


def _call_logs(directory: Path, origin: str | None) -> Iterator[list[DeadLetter]]:
    """The letters of each call log, one of each form; ends the command where this is no export."""
    try:
        with _open_file(directory / INDEX) as index:
            if _decode_header(_next_line(index)).format != FORMAT:
                raise ValueError(f"it is not {FORMAT}")
            letters = [_decode_letter(line) for line in iter(lambda: _next_line(index), b"")]
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        hint = "`callspool dead export DIRECTORY` writes one."
        complain(f"{directory / INDEX} is not an index of dead letters: {error}", hint=hint)
        raise SystemExit(Exit.FAILED) from None
    destinations = sorted({one.destination for one in letters})
    if origin is not None and origin not in destinations:
        hint = f"It has those of: {', '.join(destinations) or 'none'}."
        complain(f"{directory} has no dead letters of {origin}.", hint=hint)
        raise SystemExit(Exit.USAGE)
    wanted = [one for one in letters if origin in (None, one.destination) and one.file is not None]
    for _, of_record in groupby(wanted, key=lambda one: one.record_id):
        # A notice names an object in the bucket of the gateway that exported it.
        forms = {one.form: one for one in of_record if one.form != Form.NOTICE}
        if forms:
            yield list(forms.values())


def _open_file(path: Path) -> BinaryIO:
    """A file of an export, which somebody else may have made: no link is followed, and no pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file")
    return os.fdopen(descriptor, "rb")


def _next_line(index: BinaryIO) -> bytes:
    line = index.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE:
        raise ValueError(f"it has a line of more than {_LONGEST_LINE} bytes")
    return line


def _import_record(
    directory: Path, address: ListenAddress, letters: list[DeadLetter], to: str, key: str | None, ring: KeyRing
) -> tuple[str, str]:
    """Import one call log; the outcome (new, known or failed), and why it failed."""
    first = letters[0]
    brought = ImportHeader(
        to=to,
        record_id=first.record_id,
        call_id=first.call_id,
        agent_id=first.agent_id,
        event=first.event,
        environment=first.environment,
        documents=tuple(Document(form=one.form, bytes=one.file_bytes, sha256=one.sha256 or "") for one in letters),
        key=key,
        via=first.via,
        tenant=first.tenant,
    )
    line = _encode(brought) + b"\n"
    size = len(line) + sum(one.file_bytes for one in letters)
    files = [directory / DOCUMENTS / Path(one.file or "").name for one in letters]
    try:
        body = send(address, IMPORT_TYPE, _blocks(line, files, letters, ring), size, "api", "dead-letters", "import")
    except (Refused, _BadFile) as error:
        return "failed", f"{first.record_id} of call {first.call_id}: {error}"
    return ("known" if _decode_answer(body).duplicate else "new"), ""


class _BadFile(Exception):
    """A document is missing, or not as long as the index says."""


def _blocks(line: bytes, files: list[Path], letters: list[DeadLetter], ring: KeyRing) -> Iterator[bytes]:
    """What is sent: the line, then the documents one after the other."""
    from spool.payload.frames import open_document  # noqa: PLC0415  # see `_write_document`

    yield line
    for path, letter in zip(files, letters, strict=True):
        left = letter.file_bytes
        try:
            with _open_file(path) as file:
                sealed = path.name.endswith(SEALED_SUFFIX)
                for block in open_document(file, ring) if sealed else iter(lambda: file.read(BLOCK_BYTES), b""):
                    if len(block) > left:
                        raise _BadFile(f"{path} is longer than the index says")
                    left -= len(block)
                    yield block
        except OSError as error:
            raise _BadFile(f"{path} cannot be read: {error.strerror or error}") from error
        except SpoolError as error:
            raise _BadFile(f"{path} cannot be decrypted: {error}") from error
        if left:
            raise _BadFile(f"{path} is {left} bytes too short")


_LETTERS = ("dead letter", "dead letters")
_SHOWN_REPORTS = 10
_LOOK_SECONDS = 0.2
"""How often `--wait` looks."""
_SOME_STATE = ("dead", "queued")

_decode_report = msgspec.json.Decoder(DeliveryReport).decode


@click.group()
def dead() -> None:
    """Dead letters: deliveries that callspool no longer retries. They keep their payload and the reason."""


@dead.command("list", short_help="List dead letters.")
@selecting
@limit_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
@admin_option
def list_(address: ListenAddress, *, limit: int | None, as_json: bool, **selection: Any) -> None:
    """List dead letters, oldest call logs first, with advice for each kind of reason."""
    list_entries(
        address, select_by(("dead",), **selection), dead_letters, "No dead letters.", limit=limit, as_json=as_json
    )


@dead.command(short_help="Show one dead letter with its record and payload.")
@click.argument("target", metavar="RECORD_ID|CALL_ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
@click.option(
    "--payload",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write the payload to a file instead (- for stdout).",
)
@click.option("--document", is_flag=True, help="Also show how its document begins: transcript, numbers and all.")
@admin_option
def show(target: str, address: ListenAddress, *, as_json: bool, file: Path | None, document: bool) -> None:
    """Show why a delivery is a dead letter, and what to do about it.

    What was said in the call is shown only with --document, --payload or --json.
    """
    with explained():
        found = _named(address, target)
        if file is not None:
            _write(address, found, file)
            return
        for one in found[:_SHOWN_REPORTS]:
            body = ask(address, "api", "deliveries", *one.key.split("/", 2))
            if as_json:
                click.echo(body.decode())
            else:
                output().print(report(_decode_report(body), with_document=document))
        if len(found) > _SHOWN_REPORTS:
            complain(f"{count_text(len(found) - _SHOWN_REPORTS)} more match: name one by its key.", style="dim")


@dead.command(short_help="Send dead letters again.")
@selecting
@click.option(
    "--wait",
    type=Span(),
    metavar="DURATION",
    help="Wait until each has arrived or is dead again, at most this long, such as 30s.",
)
@ordering
@admin_option
def replay(
    address: ListenAddress, *, everything: bool, dry_run: bool, yes: bool, wait: float | None, **selection: Any
) -> None:
    """Queue dead letters again, in the order of their calls and with the same idempotency keys."""
    selects = select_by(("dead",), **selection)
    require_selection(selects, everything=everything)
    requests = [OrderRequest(select=select) for select in selects]
    keys: list[str] = []
    if wait is not None and not dry_run:
        with explained():
            keys = [one.key for one in chain.from_iterable(entries(address, select) for select in selects)]
    wording = Wording("replay", "Replayed", _LETTERS)
    replayed = give(address, OrderName.REPLAY, requests, wording, dry_run=dry_run, yes=yes)
    if replayed and wait is not None:
        _wait(address, keys, wait)


def _wait(address: ListenAddress, keys: Sequence[str], seconds: float) -> None:
    """Wait for the end of these deliveries, and say how they ended; exits with 1 unless all arrived."""
    deadline, left = time.monotonic() + seconds, set(keys)
    again: set[str] = set()
    with explained(), progress_bar() as tell:
        while left and time.monotonic() < deadline:
            for key in sorted(left):
                state = _state(address, key)
                if state in {None, "dead"}:
                    left.discard(key)
                    again |= {key} if state == "dead" else set()
            tell("arrived", len(keys) - len(left), len(keys))
            if left:
                time.sleep(_LOOK_SECONDS)
    arrived = len(keys) - len(left) - len(again)
    counts = {"arrived": arrived, "dead": len(again), "queued": len(left)}
    result(counts, f"{count_text(arrived)} arrived.", "green" if arrived else "")
    if again:
        complain(f"{count_text(len(again))} are dead again.", hint="`callspool dead list` says why.")
    if left:
        complain(f"{count_text(len(left))} are still queued after {seconds:g} s.", style="yellow")
    if again or left:
        raise SystemExit(Exit.FAILED)


def _state(address: ListenAddress, key: str) -> str | None:
    """Where a delivery stands; None once it has ended."""
    try:
        return _decode_report(ask(address, "api", "deliveries", *key.split("/", 2))).delivery.state
    except Refused as error:
        if error.code == "unknown_delivery":
            return None
        raise


@dead.command(short_help="Delete dead letters for good.")
@selecting
@ordering
@admin_option
def discard(address: ListenAddress, *, everything: bool, dry_run: bool, yes: bool, **selection: Any) -> None:
    """Delete dead letters for good, payloads included, with what is held for a discarded core."""
    selects = select_by(("dead",), **selection)
    require_selection(selects, everything=everything)
    requests = [OrderRequest(select=select) for select in selects]
    wording = Wording("discard", "Discarded", ("delivery", "deliveries"))
    give(address, OrderName.DISCARD, requests, wording, dry_run=dry_run, yes=yes, final=True)


def _named(address: ListenAddress, target: str) -> list[DeliveryEntry]:
    """The dead letters that a target names; where it names none, what is queued of it, by its key."""
    for states in (("dead",), _SOME_STATE):
        (select,) = select_by(
            states, targets=(target,), destination=None, form=None, reason=None, older_than=None, newer_than=None
        )
        found = list(islice(entries(address, select), 1000))
        if found:
            return found
    complain(
        f"No delivery of {target!r} is a dead letter or queued.",
        hint="`callspool show CALL_ID` shows what became of it.",
    )
    raise SystemExit(Exit.UNKNOWN_CALL)


def _write(address: ListenAddress, found: list[DeliveryEntry], file: Path) -> None:
    """What one delivery carries, as JSON; a file appears only when it is whole."""
    if len(found) != 1:
        keys = ", ".join(one.key for one in found[:_SHOWN_REPORTS])
        raise click.UsageError(f"--payload writes one delivery, and several match. Name one by its key: {keys}")
    blocks = download(address, "api", "documents", *found[0].key.split("/", 2))
    if str(file) == "-":
        for block in blocks:
            sys.stdout.buffer.write(block)
        return
    written, target = 0, DurableFile(file.absolute().parent, file.absolute())
    try:
        target.open()
        for block in blocks:
            target.write(block)
            written += len(block)
        target.commit()
    except OSError as error:
        complain(f"{file} cannot be written: {error.strerror or error}.")
        raise SystemExit(Exit.FAILED) from None
    finally:
        target.discard()
    complain(f"{file}: {bytes_text(written)}", style="green")


for _command in (export, import_):
    dead.add_command(_command)

"""`callspool redact`: what the rules of the configuration do to call logs in files."""

import gzip
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click
import msgspec

from config.settings import Settings
from gateway.calllog.errors import CallLogError
from gateway.calllog.toplevel import scan
from gateway.cli import Exit
from gateway.cli.options import loaded_or_exit, spool_option
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, table
from gateway.intake.redaction import Edit, redactor_of
from uploaders.redaction.options import Redaction

_CHANGES_MOST = 20
_AROUND, _SHOWN = 30, 120
"""Bytes that are shown before and behind a change, and of it."""


class _Change(msgspec.Struct):
    """One value that is changed."""

    file: str
    call_log: int
    byte: int
    """Where it stands in the call log as it is."""
    rules: tuple[str, ...]
    text: str


@click.command(short_help="Show what redaction does to call logs in files.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Show what each rule would change, instead of the redacted call logs.")
@click.option("--tenant", metavar="NAME", help="Apply this tenant's rules.")
@json_option
@spool_option
def redact(files: tuple[Path, ...], file: Path | None, *, dry_run: bool, tenant: str | None) -> None:
    """Apply the [redaction] rules to call logs: one JSON document in each FILE, or one in each line (- for stdin).

    Prints the redacted call logs. No gateway is involved, and no file is changed.
    """
    # Rules can be tried out before any destination is configured.
    redactor = redactor_of(_rules(loaded_or_exit(file, local=True, read_secrets=False).settings, tenant))
    counts, changes, refused = Counter[str](), list[_Change](), 0
    for path in files:
        for number, document in _documents(path):
            try:
                top = scan(document)
            except CallLogError as error:
                complain(f"{path}, call log {number}: {error.message}", hint=error.hint)
                refused += 1
                continue
            redacted, found = redactor.redact(top, bytearray)
            counts.update(found)
            if not dry_run:
                click.echo(bytes(redacted).strip())
            elif found:
                room = islice(redactor.edits(top), _CHANGES_MOST - len(changes))
                changes += _changes(str(path), number, memoryview(redacted), room)
    if dry_run:
        _show(counts, changes)
    if refused:
        raise SystemExit(Exit.FAILED)


def _rules(settings: Settings, tenant: str | None) -> Redaction:
    """The rules that are asked for; ends the command where there are none."""
    rules, section = settings.redaction.rules, "[redaction]"
    if tenant is not None:
        known = settings.tenants.get(tenant)
        if known is None:
            complain(f"There is no tenant {tenant}.", hint=f"Tenants are: {', '.join(settings.tenants) or 'none'}.")
            raise SystemExit(Exit.USAGE)
        if known.redaction is not None:
            rules, section = known.redaction.rules, f"[tenants.{tenant}.redaction]"
    if rules is None:
        hint = "Try CALLSPOOL_REDACTION_DETECT=card,iban,email,phone, or write it into the file."
        complain(f"{section} has no rules: nothing is redacted.", hint=hint)
        raise SystemExit(Exit.USAGE)
    return rules


def _documents(path: Path) -> Iterator[tuple[int, bytes]]:
    """The call logs of a file, numbered from 1."""
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        complain(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.")
        raise SystemExit(Exit.FAILED) from None
    lines = [line for line in data.splitlines() if line.strip()]
    one_each = len(lines) > 1 and all(line.strip()[:1] == b"{" and line.strip()[-1:] == b"}" for line in lines)
    yield from enumerate(lines if one_each else [data], 1)


def _changes(path: str, number: int, redacted: memoryview, edits: Iterable[Edit]) -> Iterator[_Change]:
    """What was changed, each with what stands around it now."""
    shift = 0
    for edit in edits:
        start = edit.start + shift
        shift += len(edit.made) - (edit.end - edit.start)
        end = min(start + len(edit.made), start + _SHOWN)
        around = bytes(redacted[max(start - _AROUND, 0) : end + _AROUND])
        yield _Change(path, number, edit.start, edit.rules, around.decode(errors="replace").strip())


def _show(counts: Counter[str], changes: list[_Change]) -> None:
    if as_json():
        print_json({"redacted": dict(sorted(counts.items())), "changes": changes})
        return
    if not counts:
        output().print(plain("The rules find nothing: every byte stays as it is.", "dim"))
        return
    shown = table("Rule", "Found", numbers=("Found",))
    for rule, count in counts.most_common():
        shown.add_row(plain(rule), plain(count))
    output().print(shown)
    shown = table("File", "Call log", "Byte", "Rules", "Then it says", numbers=("Call log", "Byte"))
    for each in changes:
        shown.add_row(
            plain(each.file), plain(each.call_log), plain(each.byte), plain(", ".join(each.rules)), plain(each.text)
        )
    output().print(shown)
    if len(changes) == _CHANGES_MOST:
        output().print(plain(f"These are the first {_CHANGES_MOST} changes.", "dim"))

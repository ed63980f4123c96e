"""`check`: whether everything in a spool is as it should be, without changing a byte of it.

Works beside a running gateway and where none runs, also on what a crash or a damaged disk left. Whatever it meets
becomes a finding; it raises only where there is no spool to look at.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from spool.db.connection import CORRUPT_ROW_ERRORS, reading
from spool.db.sql import READ_META
from spool.directory import DATABASE_NAME, is_owned
from spool.errors import UnsuitableDirectory
from spool.fsck.checks import check_counters, check_deliveries, check_files, check_keys
from spool.fsck.reader import Inspection, Tell, inspecting
from spool.fsck.report import RULES, Finding, Kind, Rule, Severity
from spool.fsck.storage import (
    check_frames,
    check_layout,
    check_pages,
    check_readable,
    check_spans,
    check_turns,
    check_version,
    unreadable,
)
from spool.keys import KEYS_NAME, epochs_in

__all__ = ["RULES", "Finding", "Kind", "Rule", "Severity", "Tell", "check", "read_spool_id"]

COUNTERS = "records, deliveries and counters"


def check(
    directory: Path, tell: Tell = lambda _what, _done, _total: None, *, owned: bool = False
) -> tuple[Finding, ...]:
    """All findings about the spool in `directory`; none for a sound one.

    `tell` is called with the progress; `owned`: the caller itself holds the directory, with nothing open there.
    Raises `UnsuitableDirectory` where there is no spool, or it may not be looked into.
    """
    live = not owned and is_owned(directory)
    if not (directory / DATABASE_NAME).exists():
        raise UnsuitableDirectory(f"there is no spool in {directory}: {DATABASE_NAME} is missing")
    findings = list(check_files(directory, live=live))
    try:
        with inspecting(directory, live=live, tell=tell) as inspection:
            findings += _check_database(inspection)
    except CORRUPT_ROW_ERRORS as error:
        findings.append(unreadable("database", error))
    if not owned and is_owned(directory) != live:
        raise UnsuitableDirectory(f"a gateway started or stopped in {directory} meanwhile; check again")
    return tuple(findings)


def read_spool_id(directory: Path) -> str | None:
    """The id of the spool in `directory`, for another process than its gateway; None where none can be read."""
    if not (directory / DATABASE_NAME).exists():
        return None
    try:
        with reading(directory / DATABASE_NAME, live=is_owned(directory)) as connection:
            row = connection.execute(READ_META, ("spool_id",)).fetchone()
    except (*CORRUPT_ROW_ERRORS, OSError):
        return None
    return None if row is None else str(row[0])


def _check_database(inspection: Inspection) -> list[Finding]:
    other_version = check_version(inspection)
    if other_version is not None:
        return [other_version]
    findings: list[Finding] = []
    layout = None
    inspection.tell(COUNTERS, 0, 0)
    epochs = epochs_in(inspection.directory / KEYS_NAME)
    # One snapshot, so that the figures of a running gateway agree with each other.
    inspection.connection.execute("BEGIN")
    try:
        findings += _readable("deliveries", lambda: check_deliveries(inspection))
        findings += _readable("counters", lambda: check_counters(inspection))
        findings += _readable("keys", lambda: check_keys(inspection, epochs))
        layout = check_readable(inspection, findings)
    finally:
        with suppress(*CORRUPT_ROW_ERRORS):  # a snapshot of a damaged database may have ended already
            inspection.connection.execute("COMMIT")
    inspection.tell(COUNTERS, 1, 1)
    if layout is not None:
        findings += check_layout(layout, live=inspection.live)
        findings += check_frames(inspection, layout)
    findings += _readable("spans", lambda: check_spans(inspection))
    findings += _readable("turns", lambda: check_turns(inspection))
    findings += _readable("pages", lambda: check_pages(inspection))
    return findings


def _readable(what: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What was found until the database could not be read on."""
    try:
        yield from look()
    except CORRUPT_ROW_ERRORS as error:
        yield unreadable(what, error)

"""The files of a spool: whose they are, who may read them, and what a process that was killed left behind."""

import os
from collections.abc import Iterator
from pathlib import Path

from spool.aside import asides
from spool.database import log_of
from spool.directory import DATABASE_NAME, LOCK_NAME, STAGING_NAME
from spool.disk_space import HEADROOM_NAME
from spool.fsck.findings import Finding, Kind
from spool.log_frames import lost_commits


def check_files(directory: Path, *, live: bool) -> Iterator[Finding]:
    """Everything that shows without opening the database."""
    yield from _check_owners(directory)
    yield from _check_modes(directory)
    yield from _check_log(directory, live=live)
    if not live:
        yield from _check_staging(directory)
    for aside in asides(directory):
        if not aside.brought:
            yield Finding(Kind.MOVED_ASIDE, aside.directory.name, f"a damaged database was moved here: {aside.reason}")


def own_files(directory: Path) -> list[Path]:
    """The files that a gateway opens, as far as they exist."""
    names = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", LOCK_NAME, HEADROOM_NAME)
    return [directory / name for name in names if (directory / name).exists()]


def _check_owners(directory: Path) -> Iterator[Finding]:
    """All belong to whom the database belongs to; and that is who asks, unless that is root."""
    files = own_files(directory)
    expected = (directory / DATABASE_NAME).stat().st_uid
    if os.geteuid() not in {0, expected}:
        text = f"belongs to user {expected}, and user {os.geteuid()} asks"
        yield Finding(Kind.WRONG_OWNER, DATABASE_NAME, text)
    for file in files:
        owner = file.stat().st_uid
        if owner != expected:
            text = f"belongs to user {owner}, the database to user {expected}"
            yield Finding(Kind.WRONG_OWNER, file.name, text)


def _check_modes(directory: Path) -> Iterator[Finding]:
    for file in own_files(directory):
        mode = file.stat().st_mode & 0o777
        if mode & 0o077:
            yield Finding(Kind.WRONG_MODE, file.name, f"others may open it: mode {mode:04o}", (str(file),))


def _check_log(directory: Path, *, live: bool) -> Iterator[Finding]:
    """A process that was killed leaves the log together with its index; one that ended leaves neither."""
    database = directory / DATABASE_NAME
    index, log = database.with_name(f"{DATABASE_NAME}-shm"), log_of(database)
    if not live and index.exists() and not log.exists():
        yield Finding(Kind.MISSING_LOG, log.name, "its index is there, and the log itself is not")
    if live:
        return
    try:
        lost = lost_commits(database, untouched=True)
    except OSError as error:
        yield Finding(Kind.UNREADABLE, log.name, str(error))
        return
    if lost:
        yield Finding(Kind.LOST_COMMITS, log.name, f"is damaged, and {lost} commits behind the damage are not read")


def _check_staging(directory: Path) -> Iterator[Finding]:
    staging = directory / STAGING_NAME
    for file in sorted(staging.iterdir()) if staging.is_dir() else []:
        text = f"{file.stat().st_size} bytes of a post that was never acknowledged"
        yield Finding(Kind.LEFT_IN_STAGING, f"{STAGING_NAME}/{file.name}", text, (str(file),))

"""Moving a damaged database aside: whole, with its log, into a directory of its own beside the new one.

Nothing here is ever deleted by callspool. A move that a crash interrupted is finished at the next start: the directory
says that the move is under way until all is moved.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from spool.directory import ASIDE_PREFIX, DATABASE_NAME
from spool.figures import Aside

REASON_NAME = "reason.txt"
MOVING_NAME = "moving.txt"
"""What the reason is called while the move is under way."""
BROUGHT_NAME = "brought.json"
"""Written when every readable record of a directory was brought into another spool."""
_PARTS = (f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", DATABASE_NAME)


def move_aside(directory: Path, reason: str, now: int) -> Path:
    """Move the database of a closed spool aside; returns where to. `now` in milliseconds. Raises `OSError`."""
    aside = _new_directory(directory, datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ"))
    with (aside / MOVING_NAME).open("w", encoding="utf-8") as file:
        file.write(reason + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(aside)
    _sync(directory)
    _move(directory, aside)
    return aside


def finish_moves(directory: Path) -> None:
    """Finish a move that was interrupted. Raises `OSError`."""
    for aside in directory.glob(f"{ASIDE_PREFIX}*"):
        if (aside / MOVING_NAME).exists():
            _move(directory, aside)


def asides(directory: Path) -> tuple[Aside, ...]:
    """The databases that were moved aside and are still there, the oldest first."""
    return tuple(_described(aside) for aside in sorted(directory.glob(f"{ASIDE_PREFIX}*")) if aside.is_dir())


def _described(aside: Path) -> Aside:
    reason = aside / REASON_NAME
    text = reason.read_text("utf-8", "replace").strip() if reason.exists() else ""
    size = sum(file.stat().st_size for file in aside.iterdir() if file.is_file())
    return Aside(aside, text, size, (aside / BROUGHT_NAME).exists())


def _new_directory(directory: Path, time: str) -> Path:
    for name in _names(f"{ASIDE_PREFIX}{time}"):
        aside = directory / name
        if not aside.exists():
            aside.mkdir(mode=0o700)
            return aside
    raise AssertionError("names do not end")


def _names(first: str) -> Iterator[str]:
    """Two moves in one second need two names."""
    yield first
    number = 2
    while True:
        yield f"{first}-{number}"
        number += 1


def _move(directory: Path, aside: Path) -> None:
    for name in _PARTS:
        if (directory / name).exists():
            (directory / name).rename(aside / name)
    _sync(aside)
    _sync(directory)
    (aside / MOVING_NAME).rename(aside / REASON_NAME)
    _sync(aside)


def _sync(directory: Path) -> None:
    """Make what names lie in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

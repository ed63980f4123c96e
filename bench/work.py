"""The other ceiling: what has to be done with a body, in a tight loop, in one thread and without any network.

    python -m bench.work --folder FOLDER --group 16 --seconds 5 --body FILE [--body FILE]

Bodies are checked, hashed, split and compressed by callspool's own functions; then `--group` of them are inserted into
one table, in one commit that is synced. Prints a `bench.load.Measured` as JSON.
"""

import argparse
import dataclasses
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.latency import summarize
from bench.load import Measured
from gateway.intake.parse import CallLog, SizeRule, parse
from spool.payload.frames import FrameEncoder


def frames_of(body: bytes, writer: FrameEncoder) -> Iterator[bytes]:
    """What is stored of a call log."""
    call_log = parse(body, bytearray, SizeRule())
    if not isinstance(call_log, CallLog):
        raise TypeError("the body is no call log")
    for pieces in call_log.fragments.values():
        for frame in writer.frames(pieces):
            yield frame.data


def work(bodies: Sequence[bytes], folder: Path, group: int, seconds: float) -> Measured:
    """Store bodies in turn for so many seconds, `group` of them in a commit."""
    database = sqlite3.connect(folder / "work.db", isolation_level=None)
    database.execute("PRAGMA page_size = 16384")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE frames (id INTEGER PRIMARY KEY, frame BLOB)")
    writer, in_turn = FrameEncoder(), itertools.cycle(bodies)
    posts, began, cpu_before = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        frames = [(frame,) for body in itertools.islice(in_turn, group) for frame in frames_of(body, writer)]
        database.execute("BEGIN")
        database.executemany("INSERT INTO frames (frame) VALUES (?)", frames)
        database.execute("COMMIT")
        posts += group
    took, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_before
    database.close()
    return Measured(posts, took, len(bodies[0]), 0, {}, summarize([]), cpu_seconds)


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.work", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--body", type=Path, action="append", required=True)
    given = parser.parse_args()
    bodies = [path.read_bytes() for path in given.body]
    print(json.dumps(dataclasses.asdict(work(bodies, given.folder, given.group, given.seconds))))


if __name__ == "__main__":
    main()

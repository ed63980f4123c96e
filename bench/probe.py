"""The probe: its own process, which posts call logs at a steady pace and notes when it began each of them.

    python -m bench.probe --port 7717 --path /v1/calls --post 0.05:FILE --post 1:FILE --first 1000

Each `--post` is an interval in seconds and a body; each has a connection and a thread of its own. It goes on until its
standard input is closed, and then prints one JSON document: what was posted, with times of `time.monotonic()`.
"""

import argparse
import dataclasses
import json
import selectors
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.connection import Connection
from bench.requests import PLACEHOLDER, call_id, render

_ANSWER_SECONDS = 30.0
_NUMBERS_PER_BODY = 1_000_000


@dataclass(frozen=True, slots=True)
class Probe:
    """One post. Times are seconds of the monotonic clock, which all processes of a machine share."""

    body: str
    call_id: str
    began: float
    answered: float
    status: int


@dataclass(frozen=True, slots=True)
class Pace:
    """A body, and how often it is posted."""

    interval: float
    body: Path


def post_until(ended: threading.Event, port: int, path: str, pace: Pace, first: int) -> list[Probe]:
    """Post at this pace until the event is set. A post that is late does not move those after it."""
    key = (("Idempotency-Key", PLACEHOLDER.decode()), ("x-pype-token", "bench-token"))
    connection = Connection(port, render(pace.body.read_bytes(), path=path, headers=key))
    done, number, due = [], first, time.monotonic()
    try:
        while not ended.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            status = _exchange(connection, number)
            done.append(Probe(pace.body.stem, call_id(number), began, time.monotonic(), status))
            number, due = number + 1, due + pace.interval
    finally:
        connection.close()
    return done


def _exchange(connection: Connection, number: int) -> int:
    """Post and wait for the answer; its status."""
    with selectors.DefaultSelector() as selector:
        sent = connection.begin(number, time.perf_counter_ns())
        selector.register(connection.socket, selectors.EVENT_READ if sent else selectors.EVENT_WRITE)
        while True:
            if not selector.select(_ANSWER_SECONDS):
                message = f"no answer for {_ANSWER_SECONDS:.0f} s"
                raise TimeoutError(message)
            if not sent:
                sent = connection.send()
                selector.modify(connection.socket, selectors.EVENT_READ if sent else selectors.EVENT_WRITE)
            elif (status := connection.receive()) is not None:
                return status


def _pace(text: str) -> Pace:
    interval, _, body = text.partition(":")
    return Pace(float(interval), Path(body))


def main() -> int:
    """Post until standard input ends; 1 when a thread failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.probe", description="Post at a steady pace.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/calls")
    parser.add_argument("--post", type=_pace, action="append", required=True, metavar="SECONDS:FILE")
    parser.add_argument("--first", type=int, default=1)
    given = parser.parse_args()
    ended, probes, failures = threading.Event(), [], []

    def work(pace: Pace, first: int) -> None:
        try:
            probes.extend(post_until(ended, given.port, given.path, pace, first))
        except Exception as error:  # noqa: BLE001 - told on stderr, and by the exit status
            failures.append(f"{pace.body.name}: {error!r}")

    threads = [
        threading.Thread(target=work, args=(pace, given.first + index * _NUMBERS_PER_BODY))
        for index, pace in enumerate(given.post)
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps([dataclasses.asdict(probe) for probe in probes]))
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

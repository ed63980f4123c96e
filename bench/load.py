"""The load generator: its own process, which posts as fast as the server acknowledges.

    python -m bench.load --port 7717 --path /v1/calls --body FILE --connections 8 --seconds 5

Every connection sends its next post when the answer to the last one is there. The load ends after the given time
or number of posts, whichever comes first. One JSON document on stdout says what was measured.
"""

import argparse
import dataclasses
import json
import selectors
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.connection import Connection
from bench.latency import Latency, summarize
from bench.requests import render

_STALL_SECONDS = 60.0
"""A server that answers nothing for this long has failed; the load must not wait for it forever."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be posted, and when to stop."""

    port: int
    path: str
    bodies: tuple[bytes, ...]
    connections: int
    seconds: float
    warmup: float
    max_posts: int
    first: int
    trace: Path | None = None
    """Where to write each acknowledged post: number, beginning and answer, by `time.perf_counter_ns`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a load. `posts` were acknowledged (2xx) after the warm-up, in `seconds`."""

    posts: int
    seconds: float
    body_bytes: int
    refused: int
    statuses: dict[int, int]
    latency: Latency
    cpu_seconds: float
    """CPU time of the generator itself: what it took away from the server on a small machine."""

    @property
    def per_second(self) -> float:
        """Acknowledged posts per second."""
        return self.posts / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class _Progress:
    """What the loop has seen so far."""

    next_number: int
    last_number: int
    measure_from_ns: int
    stop_at_ns: int
    last_answer_ns: int = 0
    durations_ns: list[int] = field(default_factory=list)
    trace: list[tuple[int, int, int]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def may_start(self, now_ns: int) -> bool:
        return now_ns < self.stop_at_ns and self.next_number <= self.last_number

    def answered(self, connection: Connection, status: int, now_ns: int) -> None:
        if now_ns < self.measure_from_ns:
            return
        self.statuses[status] += 1
        self.last_answer_ns = now_ns
        if 200 <= status < 300:
            self.durations_ns.append(now_ns - connection.started_ns)
            self.trace.append((connection.number, connection.started_ns, now_ns))


def run(plan: Plan) -> Measured:
    """Post until the plan's end; `BadAnswer` or TimeoutError when the server fails."""
    templates = [render(plan.bodies[i % len(plan.bodies)], path=plan.path) for i in range(plan.connections)]
    connections = [Connection(plan.port, template) for template in templates]
    try:
        cpu_before, started_ns = time.process_time(), time.perf_counter_ns()
        progress = _Progress(
            next_number=plan.first,
            last_number=plan.first + plan.max_posts - 1,
            measure_from_ns=started_ns + int(plan.warmup * 1e9),
            stop_at_ns=started_ns + int((plan.warmup + plan.seconds) * 1e9),
        )
        _loop(connections, progress)
        cpu_seconds = time.process_time() - cpu_before
    finally:
        for connection in connections:
            connection.close()
    if plan.trace is not None:
        plan.trace.write_text(json.dumps(progress.trace))
    return Measured(
        posts=len(progress.durations_ns),
        seconds=max(0, progress.last_answer_ns - progress.measure_from_ns) / 1e9,
        body_bytes=sum(map(len, plan.bodies)) // len(plan.bodies),
        refused=progress.statuses.total() - len(progress.durations_ns),
        statuses=dict(progress.statuses),
        latency=summarize(progress.durations_ns),
        cpu_seconds=cpu_seconds,
    )


def _loop(connections: list[Connection], progress: _Progress) -> None:
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            _begin(selector, connection, progress)
        while selector.get_map():
            ready = selector.select(_STALL_SECONDS)
            if not ready:
                message = f"no answer for {_STALL_SECONDS:.0f} s"
                raise TimeoutError(message)
            for key, events in ready:
                _advance(selector, key.data, events, progress)


def _advance(selector: selectors.BaseSelector, connection: Connection, events: int, progress: _Progress) -> None:
    if events & selectors.EVENT_WRITE and connection.send():
        selector.modify(connection.socket, selectors.EVENT_READ, connection)
    if events & selectors.EVENT_READ:
        status = connection.receive()
        if status is not None:
            progress.answered(connection, status, time.perf_counter_ns())
            _begin(selector, connection, progress)


def _begin(selector: selectors.BaseSelector, connection: Connection, progress: _Progress) -> None:
    now_ns = time.perf_counter_ns()
    if not progress.may_start(now_ns):
        selector.unregister(connection.socket)
        return
    number = progress.next_number
    progress.next_number += 1
    if not connection.begin(number, now_ns):
        selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/calls")
    parser.add_argument("--body", type=Path, action="append", required=True, help="may be given more than once")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time, after the warm-up")
    parser.add_argument("--warmup", type=float, default=0.0, help="seconds that are not measured")
    parser.add_argument("--max-posts", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=1, help="number of the first post")
    parser.add_argument("--trace", type=Path, help="where to write when each post began and was answered")
    given = parser.parse_args()
    return Plan(
        port=given.port,
        path=given.path,
        bodies=tuple(body.read_bytes() for body in given.body),
        connections=given.connections,
        seconds=given.seconds,
        warmup=given.warmup,
        max_posts=given.max_posts,
        first=given.first,
        trace=given.trace,
    )


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(run(_plan()))))

"""One contender in one round: started, loaded with each size in turn, drained to the sink to the end."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.intake import post
from bench.latency import quantile
from bench.load import Measured
from bench.peers.contenders import Contender, Started
from bench.peers.syncs import syncs_per_post
from bench.peers.trees import cpu_seconds, watched
from bench.processes import answers, free_port, server, wait_until
from bench.sizes import Size

_DRAIN_SECONDS = 45.0
_WARM_POSTS = 8
_FIRST = 1000


@dataclass(frozen=True, slots=True)
class PeerRound:
    """What one contender did with one size in one round. Durations in ms; what it does not do is nan."""

    contender: str
    size: str
    posts: int
    refused: int
    missing: int
    """Acknowledged, and not delivered within the time that the benchmark waits."""
    acked_per_second: float
    delivered_per_second: float
    """Call logs over the time from the first post until the last part was at the sink."""
    ack_p50: float
    ack_p99: float
    first_part_p50: float
    """Until the sink knows of the call: of a large one, callspool's core."""
    end_to_end_p50: float
    end_to_end_p99: float
    cpu_per_thousand: float
    """CPU seconds of all its processes for 1,000 call logs, delivered ones where it delivers."""
    peak_bytes: int


@contextlib.contextmanager
def sink(folder: Path) -> Iterator[int]:
    """The sink, for as long as the block lasts; its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.peers.sink", "--port", str(port)]
    with server(command, ready=lambda: answers(port, "/readyz"), log=folder / "sink.log"):
        yield port


def measure(
    contender: Contender, sizes: Sequence[Size], bodies: Mapping[str, Sequence[Path]], folder: Path, seconds: float
) -> list[PeerRound]:
    """One round of a contender; its folder is removed afterwards."""
    folder.mkdir(parents=True)
    try:
        with sink(folder) as port, contender.start(folder, port, True) as started:
            return [_measure_size(contender, started, port, size, bodies[size.name], seconds) for size in sizes]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def count_syncs(contender: Contender, body: Path, folder: Path) -> float | None:
    """How often it syncs for one post, without its worker; None where that cannot be counted."""
    folder.mkdir(parents=True)
    try:
        with contender.start(folder, free_port(), False) as started:
            return syncs_per_post(started.roots, started.port, body, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure_size(
    contender: Contender, started: Started, sink_port: int, size: Size, bodies: Sequence[Path], seconds: float
) -> PeerRound:
    """Warm up, load, and wait for the last delivery."""
    parts = contender.parts(size.body_bytes)
    ask(sink_port, "/forget")
    warm = post(started.port, bodies, connections=size.connections, seconds=2, warmup=0, max_posts=_WARM_POSTS)
    if contender.delivers:
        _drained(sink_port, parts, warm.posts)
    ask(sink_port, "/forget")
    trace = bodies[0].with_name("trace.json")
    before = cpu_seconds(started.roots)
    with watched(started.roots) as peak:
        load = post(
            started.port, bodies, connections=size.connections, seconds=seconds, warmup=0, first=_FIRST, trace=trace
        )
        missing = load.posts - _drained(sink_port, parts, load.posts) if contender.delivers else 0
    cpu = cpu_seconds(started.roots) - before
    began = {number: at for number, at, _ in json.loads(trace.read_text())}
    arrivals = ask(sink_port, "/arrivals")
    return _round(contender, size, load, began, arrivals, parts, missing, cpu, peak.bytes)


def _round(
    contender: Contender,
    size: Size,
    load: Measured,
    began: Mapping[int, int],
    arrivals: Mapping[str, Sequence[int]],
    parts: int,
    missing: int,
    cpu: float,
    peak_bytes: int,
) -> PeerRound:
    """The figures of one load."""
    whole = {int(number): last for number, (_, last, count) in arrivals.items() if count >= parts}
    durations = sorted((last - began[number]) / 1e6 for number, last in whole.items() if number in began)
    firsts = sorted((at - began[int(number)]) / 1e6 for number, (at, *_) in arrivals.items() if int(number) in began)
    lasted = (max(whole.values()) - min(began.values())) / 1e9 if whole else 0.0
    return PeerRound(
        contender=contender.name,
        size=size.name,
        posts=load.posts,
        refused=load.refused,
        missing=missing,
        acked_per_second=load.per_second,
        delivered_per_second=len(durations) / lasted if lasted else float("nan"),
        ack_p50=load.latency.p50,
        ack_p99=load.latency.p99,
        first_part_p50=quantile(firsts, 0.5),
        end_to_end_p50=quantile(durations, 0.5),
        end_to_end_p99=quantile(durations, 0.99),
        cpu_per_thousand=1000 * cpu / max(1, len(durations) if contender.delivers else load.posts),
        peak_bytes=peak_bytes,
    )


def _drained(sink_port: int, parts: int, wanted: int) -> int:
    """How many call logs are at the sink in all their parts, once all are, or time is up."""
    with contextlib.suppress(TimeoutError):  # what is missing is counted and shown
        wait_until(lambda: ask(sink_port, f"/count/{parts}") >= wanted, "everything is delivered", _DRAIN_SECONDS)
    count: int = ask(sink_port, f"/count/{parts}")
    return min(count, wanted)


def ask(port: int, path: str) -> Any:  # Any: whatever JSON the sink answers
    """What the sink answers to a GET of this path."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()

"""How soon a core is at the endpoint while details drain, and how fast these drain.

A backlog of large call logs is taken in while the endpoint is down. Then callspool is restarted with the endpoint up,
and drains; meanwhile a probe posts call logs of every size at a steady pace. The ceiling beside it is a sender
that has everything encoded beforehand and keeps nothing on disk, with the same probe posting straight to the endpoint.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.intake import post
from bench.journal import Arrived, Journal
from bench.memory import Memory, PeakMemory
from bench.probe import Probe
from bench.processes import ServerFailed, free_port, run_python, wait_until
from bench.requests import call_id
from bench.servers import callspool, endpoint
from bench.sizes import Size

ENDPOINT_PATH = "/dev/send-call-log"
_DRAIN_SECONDS = 300.0
_FIRST_PROBE = 1_000_000
_PROBE_SECONDS = 30.0
_DIRECT_REPEATS = 3
"""The ceiling is several times as fast as a drain; repeated, it lasts long enough for some probes."""
_ENDPOINT_LIMIT = 6_000_000


@dataclass(frozen=True, slots=True)
class Drain:
    """What arrived at the endpoint in one round, and how soon the probe's call logs were there."""

    server: str
    details: int
    raw_bytes: int
    sent_bytes: int
    seconds: float
    """From the first detail's arrival until the backlog's last; the bytes of the first are not counted."""
    refused: int
    missing: int
    """Probe posts that were acknowledged and did not arrive in time; anything but 0 is a defect."""
    core_seconds: dict[str, list[float]]
    """By body: from the beginning of a post until its core, or the whole, was at the endpoint."""
    ack_seconds: dict[str, list[float]]
    peak: Memory

    @property
    def raw_megabytes_per_second(self) -> float:
        """Decoded bytes that arrived per second, in MB."""
        return self.raw_bytes / 1e6 / self.seconds if self.seconds else float("nan")


def drain_callspool(large: Sequence[Path], probes: Sequence[tuple[Size, Path]], backlog: int, folder: Path) -> Drain:
    """One round of callspool; the folder holds its spool and is the caller's to remove."""
    folder.mkdir(parents=True)
    port = free_port()
    waiting = {call_id(number) for number in range(1, backlog + 1)}
    with callspool(folder, endpoint_port=port) as running:
        filled = post(running.intake_port, large, connections=2, seconds=120, warmup=0, max_posts=backlog)
    if filled.posts < backlog:
        message = f"only {filled.posts} of {backlog} call logs were accepted: {filled.statuses}"
        raise ServerFailed(message)
    with contextlib.ExitStack() as stack:
        journal = Journal(stack.enter_context(endpoint(folder, port)))
        running = stack.enter_context(callspool(folder, endpoint_port=port))
        memory = stack.enter_context(PeakMemory(running.process.pid))
        with _probing(running.intake_port, "/v1/calls", probes) as posted:
            # Its breaker remembers that the endpoint was down, and would wait for some seconds more.
            wait_until(lambda: running.resume() or _has_any(journal), "it sends again", _PROBE_SECONDS)
            wait_until(lambda: _has(journal, waiting), f"{backlog} details have arrived", _DRAIN_SECONDS)
        missing = _missing_after_a_while(journal, posted)
    drained_at = max(one.at for one in journal.details() if one.call_id in waiting)
    drained = [one for one in journal.details() if one.at <= drained_at]
    return _drain("callspool", drained, journal, posted, missing, memory.peak)


def drain_directly(envelopes: Sequence[Path], probes: Sequence[tuple[Size, Path]], folder: Path) -> Drain:
    """One round of the ceiling."""
    folder.mkdir(parents=True)
    port = free_port()
    small = [(size, body) for size, body in probes if size.body_bytes < _ENDPOINT_LIMIT]
    with endpoint(folder, port) as path:
        journal = Journal(path)
        with _probing(port, ENDPOINT_PATH, small) as posted:
            if small:
                # A fast sender would be done before the probe's process has started.
                wait_until(lambda: _probed(journal), "the first probe has arrived", _PROBE_SECONDS)
            repeat = ["--port", str(port), "--repeat", str(_DIRECT_REPEATS)]
            run_python("bench.envelopes", *repeat, *map(str, envelopes), timeout=_DRAIN_SECONDS)
        missing = _missing_after_a_while(journal, posted)
    names = {envelope.stem for envelope in envelopes}
    sent = [one for one in journal.arrived if one.call_id in names]
    return _drain("direct", sent, journal, posted, missing, Memory(0, None))


@contextlib.contextmanager
def _probing(port: int, path: str, bodies: Sequence[tuple[Size, Path]]) -> Iterator[list[Probe]]:
    """Post at a steady pace during the block; the list is filled when it ends."""
    command = [sys.executable, "-m", "bench.probe", "--port", str(port), "--path", path]
    command += ["--first", str(_FIRST_PROBE)]
    for size, body in bodies:
        command += ["--post", f"{1 / size.probes_per_second}:{body}"]
    posted: list[Probe] = []
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield posted
        told, failures = process.communicate(timeout=60)
        if process.returncode:
            message = f"the probe failed: {failures[-2000:]}"
            raise ServerFailed(message)
        posted += [Probe(**entry) for entry in json.loads(told)]
    finally:
        process.kill()
        process.wait()


def _probed(journal: Journal) -> bool:
    journal.read()
    return call_id(_FIRST_PROBE) in journal.first_of_call()


def _has_any(journal: Journal) -> bool:
    journal.read()
    return bool(journal.arrived)


def _has(journal: Journal, details: set[str]) -> bool:
    journal.read()
    return details <= {one.call_id for one in journal.details()}


def _missing_after_a_while(journal: Journal, posted: Sequence[Probe]) -> int:
    """How many acknowledged posts have no core at the endpoint after a minute's patience."""
    wanted = {probe.call_id for probe in posted if probe.status < 300}

    def all_there() -> bool:
        journal.read()
        return wanted <= journal.first_of_call().keys()

    with contextlib.suppress(TimeoutError):  # those that are missing are counted and shown
        wait_until(all_there, "every probe has arrived", 60)
    return len(wanted - journal.first_of_call().keys())


def _drain(
    server: str,
    drained: Sequence[Arrived],
    journal: Journal,
    posted: Sequence[Probe],
    missing: int,
    peak: Memory,
) -> Drain:
    first = journal.first_of_call()
    core: dict[str, list[float]] = {}
    ack: dict[str, list[float]] = {}
    for probe in posted:
        if probe.status < 300 and probe.call_id in first:
            core.setdefault(probe.body, []).append(first[probe.call_id].at - probe.began)
            ack.setdefault(probe.body, []).append(probe.answered - probe.began)
    return Drain(
        server=server,
        details=len(drained),
        raw_bytes=sum(one.raw_bytes for one in drained[1:]),
        sent_bytes=sum(one.sent_bytes for one in drained[1:]),
        seconds=drained[-1].at - drained[0].at if drained else 0.0,
        refused=journal.refused,
        missing=missing,
        core_seconds=core,
        ack_seconds=ack,
        peak=peak,
    )

"""What a doctor looks at on a machine: the disk of the spool, its commits, limits, the clock. Changes nothing.

Each check gives a finding: what was found, what it means, and what to do where it is not well.
"""

import http.client
import os
import resource
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from gateway.formatting import bytes_text
from gateway.runbooks import Runbook

SYNCS = 40
GOOD_MS, BAD_MS = 10.0, 100.0
"""A commit that takes longer than the first delays agents noticeably, than the second it makes them time out."""
SKEW_SECONDS = 30.0
"""Signatures of S3 and of webhooks tolerate some minutes; records are ordered by their own times."""
_SECONDS = 5.0


class Health(StrEnum):
    """How good it is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    """It works, and will give trouble."""
    BAD = "bad"
    """Call logs are refused, or not delivered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing."""

    what: str
    health: Health
    found: str
    advice: str = ""


def commit_latency(directory: Path) -> tuple[float, float]:
    """The median and the worst of some commits in a directory, in ms: 4 KB written and fsynced, as SQLite does it."""
    took: list[float] = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(1000 * (time.perf_counter() - began))
    took.sort()
    return took[len(took) // 2], took[-1]


def about_commits(median_ms: float, worst_ms: float) -> Finding:
    """What the latency of commits means for agents. Pure."""
    found = f"{median_ms:.1f} ms, at worst {worst_ms:.0f} ms: about {1000 / max(median_ms, 0.01):,.0f} commits a second"
    if median_ms < GOOD_MS and worst_ms < BAD_MS:
        return Finding("commit latency", Health.GOOD, f"{found}; an agent waits for one")
    advice = f"Put the spool on a local SSD: each post waits for a commit. {Runbook.SLOW_COMMITS}"
    health = Health.DOUBTFUL if median_ms < BAD_MS else Health.BAD
    return Finding("commit latency", health, found, advice)


def about_disk(directory: Path, quota: int | None) -> Finding:
    """Whether there is room for the quota."""
    found = os.statvfs(directory)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    text = f"{bytes_text(free)} free" + (f", the spool may take {bytes_text(quota)}" if quota else "")
    runbook = Runbook.DISK_FULL
    if free < 200 << 20 or (found.f_files and inodes < 100):
        return Finding("disk", Health.BAD, text, f"Free some: posts are answered 507. {runbook}")
    if quota is not None and free < quota:
        return Finding("disk", Health.DOUBTFUL, text, f"Lower CALLSPOOL_SPOOL_MAX_BYTES, or free some. {runbook}")
    return Finding("disk", Health.GOOD, text)


def about_limits(connections: int, memory_budget: int) -> Iterator[Finding]:
    """Whether file descriptors and memory suffice for the settings."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= connections + 200
    text = f"{'unlimited' if hard == resource.RLIM_INFINITY else f'{hard:,}'} files, {connections:,} connections"
    advice = "" if enough else "Raise the limit (LimitNOFILE, ulimit -n), or lower intake.connections_max."
    yield Finding("open files", Health.GOOD if enough else Health.DOUBTFUL, text, advice)
    limit = memory_limit()
    if limit is None:
        return
    enough = limit >= 2 * memory_budget + (160 << 20)
    text = f"{bytes_text(limit)} for this container, {bytes_text(memory_budget)} for posts"
    advice = "" if enough else "Raise the limit of memory, or lower CALLSPOOL_MEMORY_BUDGET."
    yield Finding("memory", Health.GOOD if enough else Health.DOUBTFUL, text, advice)


def memory_limit(file: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """The limit of this control group in bytes; None where there is none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Reached:
    """How an address answered."""

    seconds: float
    status: int
    date: str | None
    """Its Date header, for the clock."""


def reach(url: str, ca_file: Path | None = None) -> Reached:
    """Ask an address with HEAD, which no endpoint takes for a call log.

    Raises `OSError` or `http.client.HTTPException` where nothing answers.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        connection = http.client.HTTPSConnection(host, port, timeout=_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    began = time.perf_counter()
    try:
        connection.request("HEAD", parts.path or "/", headers={"User-Agent": "callspool-doctor"})
        answer = connection.getresponse()
        return Reached(time.perf_counter() - began, answer.status, answer.getheader("Date"))
    finally:
        connection.close()


def about_address(name: str, url: str, ca_file: Path | None = None) -> tuple[Finding, Reached | None]:
    """Whether a destination's address answers; an answer of any status says that it is reached."""
    runbook = Runbook.DESTINATION_DOWN
    try:
        reached = reach(url, ca_file)
    except socket.gaierror as error:
        text = f"the name {urlsplit(url).hostname} is not known: {error.strerror}"
        return Finding(name, Health.BAD, text, f"Check the URL and the name server. {runbook}"), None
    except ssl.SSLError as error:
        return Finding(
            name, Health.BAD, f"TLS fails: {error.reason or error}", f"Set ca_file, if it is yours. {runbook}"
        ), None
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last for a host that can be none
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Finding(
            name, Health.BAD, f"nothing answers: {text}", f"Is it up, and allowed from here? {runbook}"
        ), None
    text = f"reached in {1000 * reached.seconds:.0f} ms (HTTP {reached.status} to HEAD)"
    if reached.status in {401, 403, 407}:
        return Finding(name, Health.DOUBTFUL, text, "`--probe` says whether a call log would be accepted."), reached
    return Finding(name, Health.GOOD, text), reached


def about_clock(dates: list[str], now: float) -> Finding | None:
    """How far this clock is from those of servers; None where none said its time. Pure."""
    skews: list[float] = []
    for date in dates:
        try:
            skews.append(now - parsedate_to_datetime(date).timestamp())
        except (TypeError, ValueError):
            continue
    if not skews:
        return None
    skew = min(skews, key=abs)
    if abs(skew) < SKEW_SECONDS:
        return Finding("clock", Health.GOOD, f"within {max(1, round(abs(skew)))} s of a server's")
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} a server's"
    return Finding("clock", Health.DOUBTFUL, text, "Let it be set by NTP (chrony, systemd-timesyncd).")

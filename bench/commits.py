"""How the gateway shared its commits among posts, as its own metrics tell."""

import re
from dataclasses import dataclass
from http.client import HTTPConnection

_SAMPLE = re.compile(r"^callspool_(commit_seconds|commit_batch_size)_(sum|count) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Commits:
    """Means over all commits since the gateway started; None where there was none."""

    count: int
    mean_milliseconds: float | None
    mean_requests: float | None


def commits_told_by(exposition: str) -> Commits:
    """Read the figures from the text of /metrics."""
    told = {(name, part): float(value) for name, part, value in _SAMPLE.findall(exposition)}
    count = told.get(("commit_seconds", "count"), 0.0)
    if not count:
        return Commits(0, None, None)
    seconds, requests = told["commit_seconds", "sum"], told.get(("commit_batch_size", "sum"), 0.0)
    return Commits(int(count), seconds / count * 1e3, requests / count)


def commits_of(admin_port: int) -> Commits:
    """Ask a running gateway."""
    connection = HTTPConnection("127.0.0.1", admin_port, timeout=10)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        return commits_told_by(connection.getresponse().read().decode())
    finally:
        connection.close()

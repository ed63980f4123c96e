"""docs/architecture.md: whoever looks for something by the field's term finds it."""

import re

import pytest

from tests.project.promises import references
from tests.project.repository import text

ROWS = re.findall(
    r"^\| ([^|]+) \| (`[^|]+`) \| [^|]+ \|$",
    text("docs/architecture.md").partition("## Where do I find")[2].partition("\n## ")[0],
    re.MULTILINE,
)
TERMS = """
group commit, WAL, checkpoint, batch insert, prefetch, lease, eviction, retention, quota, quarantine, scrub,
orphan chunks, migration, supersession, idempotency, back-pressure, admission control, load shedding, connection limit,
staging, readiness, health, graceful shutdown, fan-out, throttle, trace, metrics, redaction, sandbox, parse worker,
circuit breaker, back-off, retry, fallback, dead letter, concurrency limit, rate limit, token bucket, connection pool,
timeouts, multipart, presigned upload, presigned URL, deduplication, jitter, drain, liveness, watchdog, backfill,
outbox, tombstone, rekey, key rotation, envelope encryption, erasure, tenant, principal, trace context, sampling,
rebalance, offset commit, claim
"""


@pytest.mark.parametrize(("term", "cell"), ROWS, ids=[term for term, _ in ROWS])
def test_what_the_index_names_is_there(term: str, cell: str) -> None:
    """Each row of the index leads to a module, class or function that exists."""
    found = references(cell)
    assert found
    assert not [one for one in found if not one.exists()]


@pytest.mark.parametrize("term", [term.strip() for term in TERMS.replace("\n", " ").split(",")])
def test_the_index_has_the_fields_terms(term: str) -> None:
    """A reader who knows databases, queues or HTTP finds a thing by its usual name."""
    assert re.search(rf"\b{re.escape(term)}\b", "\n".join(term for term, _ in ROWS), re.IGNORECASE)

"""The books: counters, tokens and numbers agree with what is there (promise 2)."""

from collections.abc import Iterator

from spool.figures import LaneCounts
from spool.fsck import statements
from spool.fsck.chunks import record_named
from spool.fsck.findings import Finding, Kind
from spool.fsck.inspection import Inspection
from spool.records import DeliveryState

FACTS = ("spool_id", "limit_bytes")
"""What a spool always knows about itself."""

_LEVELS = tuple(state for state in DeliveryState if not state.ended)


def check_books(inspection: Inspection) -> Iterator[Finding]:
    """Everything that is counted or numbered."""
    yield from _check_meta(inspection)
    yield from _check_counters(inspection)
    yield from _check_tokens(inspection)
    for record_id, destination_id, form in inspection.connection.execute(statements.STRAY_PARTS):
        where = f"parts of the {form} of record {record_id}"
        yield Finding(Kind.STRAY_PROGRESS, where, "belong to no upload", (record_id, destination_id, form))


def _check_meta(inspection: Inspection) -> Iterator[Finding]:
    known = {name for (name,) in inspection.connection.execute(statements.META)}
    for name in FACTS:
        if name not in known:
            yield Finding(Kind.MISSING_META, name, "is not there")
    (largest,) = inspection.connection.execute(statements.LARGEST_RECORD).fetchone()
    sequence = inspection.connection.execute(statements.SEQUENCE).fetchone()
    last = sequence[0] if sequence else 0
    if (largest or 0) > last:
        text = f"go on after {last}, and {largest} is in use: idempotency keys would be used twice"
        yield Finding(Kind.REUSED_IDS, "record ids", text, (largest,))


def _check_counters(inspection: Inspection) -> Iterator[Finding]:
    """What is open is counted exactly; of what ended, receipts may have been deleted since."""
    names = dict(inspection.connection.execute(statements.DESTINATIONS).fetchall())
    counters = {
        (destination_id, lane): LaneCounts(*counts)
        for destination_id, lane, *counts in inspection.connection.execute(statements.COUNTERS)
    }
    there: dict[tuple[int, str], dict[int, tuple[int, int]]] = {}
    for destination_id, lane, state, count, raw_bytes in inspection.connection.execute(statements.COUNTED):
        there.setdefault((destination_id, lane), {})[state] = (count, raw_bytes)
    for key in sorted(counters.keys() | there.keys()):
        counts, states = counters.get(key, LaneCounts()), there.get(key, {})
        wrong = [*_wrong_levels(counts, states), *_wrong_sums(counts, states)]
        if wrong:
            where = f"{names.get(key[0], key[0])}, {key[1]} lane"
            yield Finding(Kind.WRONG_COUNTER, where, "; ".join(wrong), key)


def _wrong_levels(counts: LaneCounts, states: dict[int, tuple[int, int]]) -> Iterator[str]:
    for state in DeliveryState:
        name = state.name.lower()
        counted, found = getattr(counts, name), states.get(state, (0, 0))[0]
        if found != counted and (state in _LEVELS or found > counted):
            yield f"{counted} {name} are counted, {found} are there"


def _wrong_sums(counts: LaneCounts, states: dict[int, tuple[int, int]]) -> Iterator[str]:
    if counts.unaccounted:
        yield f"{counts.owed} are owed, and the states add up to {counts.owed - counts.unaccounted}"
    queued = sum(states.get(state, (0, 0))[1] for state in DeliveryState if state.queued)
    if queued != counts.queued_bytes:
        yield f"{counts.queued_bytes} bytes are counted as queued, {queued} are"


def _check_tokens(inspection: Inspection) -> Iterator[Finding]:
    used = dict(inspection.connection.execute(statements.TOKEN_USES).fetchall())
    for token_id, uses in inspection.connection.execute(statements.TOKENS):
        found = used.get(token_id, 0)
        if not found:
            yield Finding(Kind.UNUSED_TOKEN, f"token {token_id}", "is kept, and nothing uses it", (token_id,))
        elif found != uses:
            text = f"{uses} uses are counted, {found} are there"
            yield Finding(Kind.WRONG_USES, f"token {token_id}", text, (token_id, found))
    for record_id, call_id in inspection.connection.execute(statements.WITHOUT_TOKEN):
        where = record_named(record_id, call_id)
        yield Finding(Kind.MISSING_TOKEN, where, "its agent's token is not there", (record_id,))

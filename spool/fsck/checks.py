"""Checks of the counters, tokens and numbers (promise 2), of deliveries and their order (promise 4), and of files."""

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from spool.db.connection import log_of
from spool.db.sql import HELD_FOR_CORE, USES_OF_EPOCHS
from spool.db.wal import lost_commits
from spool.directory import DATABASE_NAME, LOCK_NAME, STAGING_NAME, quarantined
from spool.fsck import reader
from spool.fsck.reader import Inspection
from spool.fsck.report import Finding, Kind
from spool.fsck.storage import record_named
from spool.keys import KEYS_NAME, epochs_in
from spool.queue.ordering import Sibling, initial_state, sibling_of, state_in_record
from spool.records import DeliveryState, Form, Lane
from spool.space import HEADROOM_NAME
from spool.stats import LaneCounts

FACTS = ("spool_id", "limit_bytes")
"""What a spool always knows about itself."""

_LEVELS = tuple(state for state in DeliveryState if not state.ended)


_PROTECTED = {
    "records": ("call log", "call logs"),
    "tokens": ("token", "tokens"),
    "trace_rows": ("post of spans", "posts of spans"),
    "live_turns": ("turn", "turns"),
}


def check_keys(inspection: Inspection, before: Collection[int]) -> Iterator[Finding]:
    """Whether the keys are there of what is encrypted; `before` are the epochs that were there before the snapshot.

    Whether they can be unwrapped only the main key could say.
    """
    there = {*before, *epochs_in(inspection.directory / KEYS_NAME)}
    lost: list[str] = []
    for table, query in USES_OF_EPOCHS.items():
        rows = inspection.connection.execute(query).fetchall()
        count = sum(uses for epoch, uses in rows if epoch not in there)
        if count:
            lost.append(f"{count} {_PROTECTED[table][count > 1]}")
    if lost:
        yield Finding(Kind.MISSING_KEY, KEYS_NAME, f"lacks the keys of {', '.join(lost)}")


def check_counters(inspection: Inspection) -> Iterator[Finding]:
    """Everything that is counted or numbered."""
    yield from _check_meta(inspection)
    yield from _check_counters(inspection)
    yield from _check_tokens(inspection)
    for trace_id, principal, spans, size, found, found_size in inspection.connection.execute(reader.TRACES):
        text = f"{spans} spans of {size} bytes are counted, {found} of {found_size} are there"
        yield Finding(Kind.WRONG_TRACE, f"trace {trace_id.hex()}", text, (trace_id.hex(), principal))
    for call_id, principal, turns, size, found, found_size in inspection.connection.execute(reader.LIVE_CALLS):
        text = f"{turns} turns are counted, {size} bytes in all; {found} are there, {found_size} bytes"
        yield Finding(Kind.WRONG_LIVE_CALL, f"live call {call_id}", text, (call_id, principal))
    for record_id, destination_id, form in inspection.connection.execute(reader.STRAY_PARTS):
        where = f"parts of the {form} of record {record_id}"
        yield Finding(Kind.STRAY_PROGRESS, where, "belong to no upload", (record_id, destination_id, form))


def _check_meta(inspection: Inspection) -> Iterator[Finding]:
    known = {name for (name,) in inspection.connection.execute(reader.META)}
    for name in FACTS:
        if name not in known:
            yield Finding(Kind.MISSING_META, name, "is not there")
    (largest,) = inspection.connection.execute(reader.LARGEST_RECORD).fetchone()
    sequence = inspection.connection.execute(reader.SEQUENCE).fetchone()
    last = sequence[0] if sequence else 0
    if (largest or 0) > last:
        text = f"continue after {last}, and {largest} is in use: idempotency keys would be used twice"
        yield Finding(Kind.REUSED_IDS, "record ids", text, (largest,))


def _check_counters(inspection: Inspection) -> Iterator[Finding]:
    """What is open is counted exactly; of what ended, receipts may have been deleted since."""
    names = dict(inspection.connection.execute(reader.DESTINATIONS).fetchall())
    counters = {
        (destination_id, lane): LaneCounts(*counts)
        for destination_id, lane, *counts in inspection.connection.execute(reader.COUNTERS)
    }
    there: dict[tuple[int, str], dict[int, tuple[int, int]]] = {}
    for destination_id, lane, state, count, raw_bytes in inspection.connection.execute(reader.COUNTED):
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
    used = dict(inspection.connection.execute(reader.TOKEN_USES).fetchall())
    for token_id, uses in inspection.connection.execute(reader.TOKENS):
        found = used.get(token_id, 0)
        if not found:
            yield Finding(Kind.UNUSED_TOKEN, f"token {token_id}", "is kept, and nothing uses it", (token_id,))
        elif found != uses:
            text = f"{uses} uses are counted, {found} are there"
            yield Finding(Kind.WRONG_USES, f"token {token_id}", text, (token_id, found))
    for record_id, call_id in inspection.connection.execute(reader.WITHOUT_TOKEN):
        where = record_named(record_id, call_id)
        yield Finding(Kind.MISSING_TOKEN, where, "its agent's token is not there", (record_id,))


# Deliveries: each has its record and destination, a legal state, and its place in the order (promise 4).


class _Stored(NamedTuple):
    """A row of `reader.DELIVERIES`."""

    record_id: int
    call_id: str | None
    lost_record: bool
    receipt: bool
    destination_id: int
    destination: str | None
    form: str
    lane: str
    state: int
    ordered: int
    after_destination_id: int | None
    held_for: int | None
    settled_at: int | None
    attempts: int
    principal: str | None

    @property
    def where(self) -> str:
        """The delivery as people see it."""
        return f"{self.form} of {record_named(self.record_id, self.call_id)} to {self.destination}"

    @property
    def key(self) -> tuple[int | str, ...]:
        """What names it in the database."""
        return (self.record_id, self.destination_id, self.form)


def check_deliveries(inspection: Inspection) -> Iterator[Finding]:
    """One pass over all deliveries, record by record."""
    rows = inspection.connection.execute(reader.DELIVERIES)
    for _, of_record in groupby(rows, key=itemgetter(0)):
        yield from _check_record(inspection, [_Stored(*row) for row in of_record])
    for record_id, call_id in inspection.connection.execute(reader.OPEN_WITHOUT_DELIVERY):
        text = "is open, and nothing of it is to be delivered"
        yield Finding(Kind.NOTHING_OWED, record_named(record_id, call_id), text, (record_id,))


def _check_record(inspection: Inspection, stored: Sequence[_Stored]) -> Iterator[Finding]:
    sound = True
    for one in stored:
        finding = _fault_of(one)
        if finding is not None:
            sound = False
            yield finding
    if sound:
        yield from _check_order(inspection, stored)


def _fault_of(one: _Stored) -> Finding | None:
    if one.lost_record:
        return Finding(Kind.NO_RECORD, one.where, "its record is not there", one.key)
    if one.destination is None:
        text = f"its destination, number {one.destination_id}, has no name"
        return Finding(Kind.NO_DESTINATION, one.where, text, one.key)
    reason = _illegal(one)
    if reason is not None:
        return Finding(Kind.ILLEGAL_DELIVERY, one.where, reason, one.key)
    if one.receipt and not DeliveryState(one.state).ended:
        text = f"is {DeliveryState(one.state).name.lower()}, and its record ended"
        return Finding(Kind.OWED_BY_RECEIPT, one.where, text, one.key)
    return None


def _illegal(one: _Stored) -> str | None:
    """What no settlement would have written; None for what one would."""
    if one.state not in set(DeliveryState):
        return f"is in a state that does not exist: {one.state}"
    if one.form not in set(Form) or one.lane not in set(Lane):
        return f"has a form or lane that does not exist: {one.form}, {one.lane}"
    state = DeliveryState(one.state)
    if (state is DeliveryState.HELD) != (one.held_for is not None):
        return f"is {state.name.lower()} and held for {one.held_for}"
    if (state.ended or state is DeliveryState.DEAD) != (one.settled_at is not None):
        return f"is {state.name.lower()} and settled at {one.settled_at}"
    return f"has {one.attempts} attempts" if one.attempts < 0 else None


def _check_order(inspection: Inspection, stored: Sequence[_Stored]) -> Iterator[Finding]:
    if len(stored) == 1 and stored[0].state != DeliveryState.WAITING:
        return
    siblings = [_sibling(one) for one in stored]
    for one, sibling in zip(stored, siblings, strict=True):
        finding = _misplaced(inspection, one, sibling, siblings)
        if finding is not None:
            yield finding


def _misplaced(inspection: Inspection, one: _Stored, sibling: Sibling, siblings: Sequence[Sibling]) -> Finding | None:
    """What is ready must have nothing of its own record ahead; what waits or is held with a core must have something.

    What is ready beside earlier records of its call is legal: a replayed dead letter goes before it.
    """
    if sibling.state is DeliveryState.READY and state_in_record(sibling, siblings) is not DeliveryState.READY:
        return Finding(Kind.OUT_OF_TURN, one.where, "is ready, and what it has to wait for has not ended", one.key)
    with_core = sibling.state is DeliveryState.HELD and sibling.held_for == HELD_FOR_CORE
    if with_core or sibling.state is DeliveryState.WAITING:
        right = initial_state(inspection.connection, one.call_id or "", one.principal, one.record_id, sibling, siblings)
        if right is DeliveryState.READY:
            return Finding(
                Kind.STUCK, one.where, f"is {sibling.state.name.lower()}, and nothing is ahead of it", one.key
            )
    return None


def _sibling(one: _Stored) -> Sibling:
    return sibling_of(
        (one.destination_id, one.form, one.lane, one.state, one.ordered, one.after_destination_id, one.held_for)
    )


# The files of a spool: whose they are, who may read them, and what a process that was killed left behind.


def check_files(directory: Path, *, live: bool) -> Iterator[Finding]:
    """Everything that shows without opening the database."""
    yield from _check_owners(directory)
    yield from _check_modes(directory)
    yield from _check_log(directory, live=live)
    if not live:
        yield from _check_staging(directory)
    for one in quarantined(directory):
        if not one.imported:
            yield Finding(Kind.IN_QUARANTINE, one.directory.name, f"a corrupt database was moved here: {one.reason}")


def own_files(directory: Path) -> list[Path]:
    """The files that a gateway opens, as far as they exist."""
    names = (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm", LOCK_NAME, HEADROOM_NAME, KEYS_NAME)
    return [directory / name for name in names if (directory / name).exists()]


def _check_owners(directory: Path) -> Iterator[Finding]:
    """All belong to whom the database belongs to; and that is who asks, unless that is root."""
    files = own_files(directory)
    expected = (directory / DATABASE_NAME).stat().st_uid
    if os.geteuid() not in {0, expected}:
        text = f"belongs to user {expected}, and user {os.geteuid()} asks"
        yield Finding(Kind.WRONG_OWNER, DATABASE_NAME, text)
    for file in files:
        owner = file.stat().st_uid
        if owner != expected:
            text = f"belongs to user {owner}, the database to user {expected}"
            yield Finding(Kind.WRONG_OWNER, file.name, text)


def _check_modes(directory: Path) -> Iterator[Finding]:
    for file in own_files(directory):
        mode = file.stat().st_mode & 0o777
        if mode & 0o077:
            yield Finding(Kind.WRONG_MODE, file.name, f"others may open it: mode {mode:04o}", (str(file),))


def _check_log(directory: Path, *, live: bool) -> Iterator[Finding]:
    """A process that was killed leaves the log together with its index; one that ended leaves neither."""
    database = directory / DATABASE_NAME
    index, log = database.with_name(f"{DATABASE_NAME}-shm"), log_of(database)
    if not live and index.exists() and not log.exists():
        yield Finding(Kind.MISSING_LOG, log.name, "its index is there, and the log itself is not")
    if live:
        return
    try:
        lost = lost_commits(database, untouched=True)
    except OSError as error:
        yield Finding(Kind.UNREADABLE, log.name, str(error))
        return
    if lost:
        yield Finding(Kind.LOST_COMMITS, log.name, f"is damaged, and {lost} commits behind the damage are not read")


def _check_staging(directory: Path) -> Iterator[Finding]:
    staging = directory / STAGING_NAME
    for file in sorted(staging.iterdir()) if staging.is_dir() else []:
        text = f"{file.stat().st_size} bytes of a post that was never acknowledged"
        yield Finding(Kind.LEFT_IN_STAGING, f"{STAGING_NAME}/{file.name}", text, (str(file),))

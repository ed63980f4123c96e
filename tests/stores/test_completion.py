"""How the parts of a call make one record."""

import itertools
import random

import pytest

from tests.stores.calls import part_of, random_parts
from uploaders.stores.completion import (
    LEGAL_TRANSITIONS,
    CallRow,
    CallState,
    CompletionRule,
    add_part,
    expire,
    fields_of,
)
from uploaders.stores.parts import Head, Part, PartKind

RULE = CompletionRule(timeout=300, open_timeout=3_600)
START, END, CALL = part_of(PartKind.START), part_of(PartKind.END), part_of(PartKind.CALL)
DETAIL, UPDATE, REFERENCE = part_of(PartKind.DETAIL), part_of(PartKind.UPDATE), part_of(PartKind.REFERENCE)


def row_of(*history: Part | int) -> CallRow:
    """The row after parts (each at the time that the last number gave) and moments."""
    row: CallRow | None = None
    now = 0
    for step in history:
        if isinstance(step, int):
            now = step
            row = None if row is None else expire(row, now)
        else:
            row = add_part(row, step, now, RULE)
    assert row is not None
    return row


@pytest.mark.parametrize(
    ("history", "state", "late", "due_at", "completed_at"),
    [
        ((START,), CallState.OPEN, False, 3_600, None),
        ((END,), CallState.ENDED, False, 300, None),
        ((CALL,), CallState.COMPLETE, False, None, 0),
        ((DETAIL,), CallState.PENDING, False, 3_600, None),
        ((UPDATE,), CallState.PENDING, False, 3_600, None),
        ((REFERENCE,), CallState.PENDING, False, 3_600, None),
        ((START, 862, END), CallState.COMPLETE, False, None, 862),
        ((END, 7, START), CallState.COMPLETE, False, None, 7),
        ((DETAIL, 5, END, 6, START), CallState.COMPLETE, False, None, 6),
        ((DETAIL, 5, START), CallState.OPEN, False, 3_605, None),
        ((START, 5, CALL), CallState.COMPLETE, False, None, 5),
        ((END, 5, CALL), CallState.COMPLETE, False, None, 5),
        ((END, 299), CallState.ENDED, False, 300, None),
        ((END, 300), CallState.ORPHAN, False, None, None),
        ((START, 300), CallState.OPEN, False, 3_600, None),
        ((START, 3_600), CallState.TIMED_OUT, False, None, None),
        ((DETAIL, 3_600), CallState.TIMED_OUT, False, None, None),
        ((END, 300, 400, START), CallState.COMPLETE, True, None, 400),
        ((START, 3_600, 4_000, END), CallState.COMPLETE, True, None, 4_000),
        ((DETAIL, 3_600, 4_000, START), CallState.OPEN, True, 7_600, None),
        ((DETAIL, 3_600, 4_000, END), CallState.ENDED, True, 4_300, None),
        ((DETAIL, 3_600, 4_000, CALL), CallState.COMPLETE, True, None, 4_000),
        ((START, 3_600, 4_000, DETAIL), CallState.TIMED_OUT, False, None, None),
        ((END, 300, 400, UPDATE), CallState.ORPHAN, False, None, None),
        ((START, END, 9_999, DETAIL, UPDATE), CallState.COMPLETE, False, None, 0),
    ],
)
def test_parts_and_time_move_a_call(
    history: tuple[Part | int, ...], state: CallState, late: bool, due_at: int | None, completed_at: int | None
) -> None:
    """Start and end complete a call in any order; time gives it up; the missing part repairs it, marked as late."""
    row = row_of(*history)
    assert (row.state, row.late, row.due_at, row.completed_at) == (state, late, due_at, completed_at)
    assert (row.error is not None) == (state in {CallState.TIMED_OUT, CallState.ORPHAN})


def test_a_deadline_counts_from_when_the_state_began() -> None:
    """A second, different start or end moves no deadline: whoever repeats itself cannot hold a call open for ever."""
    assert row_of(START, 100, part_of(PartKind.START, note=2)).due_at == 3_600
    assert row_of(END, 100, part_of(PartKind.END, note=2)).due_at == 300


def test_of_two_ends_the_newer_one_is_shown() -> None:
    """The one accepted last is shown, whichever was written first; both are counted."""
    old, new = part_of(PartKind.END, accepted_at=1, note=1), part_of(PartKind.END, accepted_at=2, note=2)
    for row in (row_of(old, new), row_of(new, old)):
        assert row.end is not None
        assert (row.end.digest, row.conflicts) == (new.digest, 1)


def test_the_order_of_parts_does_not_matter() -> None:
    """Every order of the same parts gives the same row."""
    parts = [START, part_of(PartKind.START, note=2), END, CALL, DETAIL, UPDATE]
    rows = [row_of(*order) for order in itertools.permutations(parts)]
    assert all(row == rows[0] for row in rows)


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_keep_to_the_legal_transitions(seed: int) -> None:
    """Whatever comes, whenever: a state changes only along LEGAL_TRANSITIONS, and a complete call stays complete."""
    chance = random.Random(seed)
    row: CallRow | None = None
    now = 0
    seen: set[tuple[PartKind, bytes]] = set()
    for part in random_parts(chance, calls=1, count=40):
        now += chance.choice([0, 10, 400, 4_000])
        before = row
        if row is not None:
            row = expire(row, now)
        if (part.kind, part.digest) not in seen:
            row = add_part(row, part, now, RULE)
        seen.add((part.kind, part.digest))
        assert row is not None
        if before is not None and before.state is not row.state:
            steps = {before.state, *LEGAL_TRANSITIONS[before.state]}
            assert any(row.state in {step, *LEGAL_TRANSITIONS[step]} for step in steps)


def test_time_alone_changes_nothing_before_it_is_due() -> None:
    """A row whose deadline has not come, or that has none, is left as it is."""
    row = row_of(START)
    assert expire(row, 3_599) == row
    complete = row_of(START, END)
    assert expire(complete, 10**9) == complete


def test_the_columns_of_a_call_are_those_of_its_end() -> None:
    """What the end says wins over what the start says; the duration is the time between both."""
    start = Head(agent_id="a", customer_number="+1", started_at=1_000)
    end = Head(agent_id="b", started_at=2_000, ended_at=4_500, reason="completed", summary={"turns": 3})
    both = fields_of(start, end)
    assert (both.agent_id, both.customer_number, both.started_at, both.duration_seconds) == ("b", "+1", 2_000, 2.5)
    assert (both.reason, both.summary) == ("completed", {"turns": 3})
    alone = fields_of(start, None)
    assert (alone.agent_id, alone.started_at, alone.duration_seconds) == ("a", 1_000, None)
    assert fields_of(start, Head(ended_at=999)).duration_seconds is None


def test_a_row_is_made_by_its_first_part() -> None:
    """It remembers when that came; later parts do not change this."""
    assert row_of(DETAIL, 500, START, END).first_part_at == 0

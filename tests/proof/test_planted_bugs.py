"""The tests notice what they are there for: each bug that is planted makes one of them fail."""

import pytest

from tests.budget import FULL
from tests.proof.planted_bugs import BUGS, CLOCK_JUMPS, ROOT, Bug, copy_of_the_code, failures, noticed

EVERY_TEST = tuple(sorted({test for bug in BUGS for test in bug.noticed_by} - {CLOCK_JUMPS}))
"""But for the proof, which has a test of its own beside these."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_code_is_what_the_bugs_were_made_for(bug: Bug) -> None:
    """Each bug can be planted: what it replaces stands where it looks for it, once."""
    assert (ROOT / bug.file).read_text("utf-8").count(bug.right) == 1


@pytest.mark.prove
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug: Bug) -> None:
    """With the bug, one of its tests fails."""
    assert noticed(bug) is not None


@pytest.mark.prove
@pytest.mark.skipif(not FULL, reason="`make test` has just passed all of these tests where the budget is small")
def test_nothing_is_noticed_without_a_bug() -> None:
    """The same tests pass in an untouched copy, so that it is the bug that they notice."""
    with copy_of_the_code() as copy:
        assert failures(copy, EVERY_TEST) == []

"""The tests notice what they are there for: each bug that is planted makes one of them fail."""

import re

import pytest

from tests.budget import FULL
from tests.proof.planted_bugs import BUGS, PROVES, ROOT, Bug, copy_of_the_code, failures, noticed
from tests.proof.removed_defences import REMOVED_DEFENCES

ALL_BUGS = BUGS + REMOVED_DEFENCES
EVERY_TEST = tuple(sorted({test for bug in ALL_BUGS for test in bug.noticed_by if not test.startswith(PROVES)}))
"""But for the proof, which has a test of its own beside these."""
UNTRIED = (
    "tests/page/test_browser",  # not every machine has the browser
    "tests/deploy/",  # manifests and units are no code of the gateway
    "tests/install/test_release.py",  # nor is an image
    "tests/uploaders/test_redaction.py::test_a_hostile_text_is_searched_in_linear_time",  # without RE2 it never ends
)


def test_every_defence_is_removed_once() -> None:
    """Each row of the threat model names a test that is known to fail without the defence."""
    named = re.findall(r"\| `(tests/[^`]+)` \|$", (ROOT / "docs/security.md").read_text("utf-8"), re.MULTILINE)
    fail = {test.partition("[")[0] for bug in ALL_BUGS for test in bug.noticed_by}
    assert named
    assert not [test for test in named if not test.startswith(UNTRIED) and test not in fail]


@pytest.mark.parametrize("bug", ALL_BUGS, ids=lambda bug: bug.name)
def test_the_code_is_what_the_bugs_were_made_for(bug: Bug) -> None:
    """Each bug can be planted: what it replaces stands where it looks for it, once."""
    assert (ROOT / bug.file).read_text("utf-8").count(bug.right) == 1


@pytest.mark.prove
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_noticed(bug: Bug) -> None:
    """With the bug, one of its tests fails."""
    assert noticed(bug) is not None


@pytest.mark.prove
@pytest.mark.parametrize("bug", REMOVED_DEFENCES[:: 1 if FULL else 4], ids=lambda bug: bug.name)
def test_a_removed_defence_is_noticed(bug: Bug) -> None:
    """Without the defence, the test of its row in docs/security.md fails."""
    assert noticed(bug) is not None


@pytest.mark.prove
@pytest.mark.skipif(not FULL, reason="`make test` has just passed all of these tests where the budget is small")
def test_nothing_is_noticed_without_a_bug() -> None:
    """The same tests pass in an untouched copy, so that it is the bug that they notice."""
    with copy_of_the_code() as copy:
        assert failures(copy, EVERY_TEST) == []

"""docs/promises.md: every promise names the code that keeps it and a test that would fail without it."""

import pytest

from tests.project.promises import Promise, promises
from tests.project.repository import text

PROMISES = promises(text("docs/promises.md"))


def test_all_nine_promises_are_there() -> None:
    """No promise of the design was left out."""
    assert len(PROMISES) >= 9


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.words[:40])
def test_a_promise_is_kept_and_tested(promise: Promise) -> None:
    """The code and the tests that a promise names exist, and there is at least one of each."""
    assert promise.kept_in, "no code is named"
    assert promise.tests, "no test is named"
    assert not [one for one in (*promise.kept_in, *promise.tests) if not one.exists()]
    assert all(one.path.startswith("tests/") and one.name for one in promise.tests)
    assert not [one for one in promise.kept_in if one.path.startswith("tests/")]

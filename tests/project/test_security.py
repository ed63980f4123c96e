"""docs/security.md: every threat names a defence and a test that is there."""

import re

import pytest

from tests.project.repository import ROOT, text

ROWS = [line.split("|")[1:-1] for line in text("docs/security.md").splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:50])
def test_a_threat_has_a_defence_and_a_test(row: list[str]) -> None:
    """The test that a row of the threat model names exists."""
    threat, defence, test = (cell.strip() for cell in row)
    assert threat
    assert defence
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)`", test)
    assert named is not None
    assert f"def {named[2]}(" in (ROOT / named[1]).read_text("utf-8")

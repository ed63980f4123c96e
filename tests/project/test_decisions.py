"""docs/decisions: every record can be found by its number, its date and its status."""

import re
from pathlib import Path

import pytest

from tests.project.repository import ROOT, text, tracked

RECORDS = sorted(path for path in tracked() if path.parts[:2] == ("docs", "decisions"))
HEAD = re.compile(r"# (\d+)\. \S.*\n\nDate: \d{4}-\d{2}-\d{2}\nStatus: (accepted|superseded by \[.*\]\((\S+)\))\n\n")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_has_number_date_and_status(path: Path) -> None:
    """A record begins with its number, its date, and whether it still holds; what took its place exists."""
    head = HEAD.match(text(path))
    assert head, text(path)[:200]
    assert int(head[1]) == int(path.name[:4])
    assert head[3] is None or (ROOT / path.parent / head[3]).exists()


def test_no_two_records_have_the_same_number() -> None:
    """A decision that is named by its number is one record."""
    numbers = [path.name[:4] for path in RECORDS]
    assert len(numbers) == len(set(numbers))

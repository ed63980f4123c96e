"""What `callspool salvage` and `callspool adopt` advise, from what their own run saw."""

import pytest

from gateway.cli.salvage import describe
from gateway.operations.salvage import Report, UnreadableRecord

REPORTS = [
    # adopt, dry run, complete, incomplete, and what is said
    ("salvaged whole", (False, False, True, False), "can be removed; do not start a gateway there"),
    ("adopted whole", (True, False, True, False), "can be removed."),
    ("something is lost", (False, False, False, True), "Keep /old if what was lost matters"),
    ("adopted, something is lost", (True, False, False, True), "Keep /old if what was lost matters"),
    ("changed meanwhile", (False, False, False, False), "Run this again"),
    ("a dry run", (False, True, False, False), None),
]


@pytest.mark.parametrize(("what", "said"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS])
def test_a_directory_can_be_removed_only_where_nothing_is_missing(
    capsys: pytest.CaptureFixture[str], what: tuple[bool, bool, bool, bool], said: str | None
) -> None:
    """That is advised from the run itself, and after no other one."""
    adopt, dry_run, complete, incomplete = what
    lost = [UnreadableRecord(5, "call", "malformed")] if incomplete else []
    report = Report(
        directory="/old", adopt=adopt, dry_run=dry_run, records={"imported": 3}, deliveries={"ready": 3},
        payload_bytes=100, without_token=0, unreadable=lost, incomplete=incomplete, complete=complete,
    )  # fmt: skip
    describe(report)
    printed = " ".join(capsys.readouterr().out.split())
    assert ("can be removed" in printed) is complete
    assert said is None or said in printed

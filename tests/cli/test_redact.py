"""`callspool redact`: what the rules do to files, before they are set."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.redact import redact

CALL = {"call_id": "c1", "text": "card 4111 1111 1111 1111, call +49 30 1234567", "n": 1.50}


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    file = tmp_path / "calls.ndjson"
    file.write_text(f"{json.dumps(CALL)}\n{json.dumps({**CALL, 'text': 'nothing'})}\n")
    return file


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLSPOOL_REDACTION_DETECT", "card,phone")


def test_a_dry_run_counts_by_rule_and_shows_the_changes(calls: Path) -> None:
    """What would be replaced is never shown, only what would stand there."""
    done = CliRunner().invoke(redact, ["--dry-run", str(calls)])
    assert done.exit_code == 0, done.output
    assert "card [card], call [phone]" in done.output
    assert "4111" not in done.output


def test_the_redacted_call_logs_are_printed(calls: Path) -> None:
    """One in each line, with all other bytes as they were."""
    done = CliRunner().invoke(redact, [str(calls)])
    assert done.output.splitlines()[0] == json.dumps({**CALL, "text": "card [card], call [phone]"})
    assert done.output.splitlines()[1] == calls.read_text().splitlines()[1]


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + 9 * b"\xff", gzip.compress(b"{}")[:-5]],
    ids=["empty", "garbled", "cut short"],
)
def test_a_damaged_file_is_said(tmp_path: Path, damage: bytes) -> None:
    """Cut off, no gzip, or broken in the middle: a sentence and an exit code, and no traceback."""
    broken = tmp_path / "calls.json.gz"
    broken.write_bytes(damage or b"no gzip")
    done = CliRunner().invoke(redact, [str(broken)])
    assert (done.exit_code, isinstance(done.exception, SystemExit)) == (1, True)
    assert "cannot be read" in done.output


def test_what_cannot_be_done_is_said(calls: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An unknown tenant, no rules, and a file that holds no JSON."""
    broken = tmp_path / "broken.json"
    broken.write_text('{"call_id": ')
    assert CliRunner().invoke(redact, ["--dry-run", str(broken)]).exit_code == 1
    assert CliRunner().invoke(redact, ["--tenant", "nobody", str(calls)]).exit_code == 2
    monkeypatch.delenv("CALLSPOOL_REDACTION_DETECT")
    done = CliRunner().invoke(redact, [str(calls)])
    assert (done.exit_code, "has no rules" in done.output) == (2, True)

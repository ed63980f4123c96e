"""`callspool outbox import`: the same rescue from the command line, into a running gateway."""

import asyncio
import json
import os
import pty
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import Exit, main
from tests.intake.running_intake import RunningIntake, running
from tests.outbox.sdk import KEY, rows, write

FULL = {"call_id": "call-1", "wcall_event": "call_ended", "telemetry_data": {}}


async def outbox_import(
    outbox: Path, world: RunningIntake | None, *arguments: str, **environment: str
) -> tuple[int, str, str]:
    """Run the command in a thread; its exit code, and what it said. Without a world no gateway is there."""
    address = f"127.0.0.1:{world.port if world else 9}"
    command = ["outbox", "import", str(outbox), "--intake", address, *arguments]
    done = await asyncio.to_thread(CliRunner().invoke, main, command, env=environment)
    return done.exit_code, " ".join(done.stdout.split()), done.stderr


async def test_an_outbox_is_emptied_into_a_running_gateway(tmp_path: Path) -> None:
    """Rows are posted with their keys and deleted; what was posted before, and an exit row, replaces nothing."""
    outbox = tmp_path / "outbox.db"
    large = {**FULL, "call_id": "large", "x": "y" * 2_000_000}
    write(outbox, payload={**FULL, "call_ended_reason": "completed"})
    write(outbox, payload={"call_id": "call-1", "wcall_event": "call_ended"}, call_id="call-1")
    write(outbox, payload=large, call_id="large", status="dead")
    write(outbox, payload={**FULL, "call_id": "busy"}, call_id="busy", status="in_progress", claimed_at=9e9)
    async with running(tmp_path / "spool", token="intake-token") as world:
        sent = {**FULL, "call_ended_reason": "completed"}
        assert (
            await world.post(sent, headers={"x-pype-token": KEY, "Authorization": "Bearer intake-token"})
        ).status == 202
        code, said, _ = await outbox_import(outbox, world, CALLSPOOL_INTAKE_TOKEN="intake-token")
        assert (code, [status for _, status, _ in rows(outbox)]) == (Exit.OK, ["in_progress"])
        assert "3 rows to move (2.0 MB), 1 still in use by the SDK" in said
        for words in ("1 rescued", "1 already known", "1 recorded, not sent"):
            assert words in said
        record = (await world.only_record("large")).record
        assert json.loads(await world.stored(record)) == {**large, "call_ended_reason": "completed"}
        assert await world.spool.token(record.token_id or 0) == "agents-key-77ab"


async def test_json_at_a_terminal_is_json_alone(tmp_path: Path) -> None:
    """What shows the progress goes to standard error."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    mine, terminal = pty.openpty()
    async with running(tmp_path / "spool") as world:
        command = ["outbox", "import", str(outbox), "--json", "--intake", f"127.0.0.1:{world.port}"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *command, stdout=terminal, stderr=asyncio.subprocess.PIPE
        )
        _, complaint = await process.communicate()
    os.close(terminal)
    said = b""
    with suppress(OSError):  # a terminal that nobody has open any more ends so
        while piece := os.read(mine, 1 << 16):
            said += piece
    os.close(mine)
    assert process.returncode == 0, complaint
    assert [json.loads(line).get("rescued") for line in said.splitlines()] == [None, 1]


async def test_a_refused_row_and_a_wrong_token_are_told(tmp_path: Path) -> None:
    """What is no call log stays behind and fails the command; so does a gateway that refuses the token."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload="{}")
    async with running(tmp_path / "spool", token="intake-token") as world:
        code, said, _ = await outbox_import(outbox, world)
        assert (code, len(rows(outbox))) == (Exit.FAILED, 1)
        assert "1 left in the outbox: not a call log" in said
        write(outbox, payload=FULL)
        code, _, complaint = await outbox_import(outbox, world)
        assert (code, len(rows(outbox))) == (Exit.FAILED, 2)
        assert "token is missing or wrong" in complaint


@pytest.mark.parametrize("arguments", [("--dry-run",), ()])
async def test_without_a_gateway_nothing_is_touched(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A dry run needs no gateway and says what lies there; without --dry-run its absence is told."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    before = outbox.read_bytes()
    code, said, complaint = await outbox_import(outbox, None, *arguments)
    assert code == (Exit.OK if arguments else Exit.NO_GATEWAY)
    assert "1 row to move" in said
    assert "pending call_ended 1" in said
    assert ("Nothing was changed" if arguments else "No gateway answers") in complaint
    assert outbox.read_bytes() == before


async def test_a_dry_run_promises_no_more_than_is_kept(tmp_path: Path) -> None:
    """What the intake would refuse is refused by the dry run, with the reason and the exit code of the real one."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    write(outbox, payload="{}", call_id="empty")
    write(outbox, payload="no JSON", call_id="binary")
    code, said, complaint = await outbox_import(outbox, None, "--dry-run")
    assert (code, "1 row to move" in said, len(rows(outbox))) == (Exit.FAILED, True, 3)
    assert "Row 2 would be left in the outbox" in complaint
    assert "Row 3 would be left in the outbox" in complaint


async def test_a_dry_run_names_missing_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose rows could not be deleted is told before anything is moved."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    monkeypatch.setattr("gateway.cli.outbox._may_write", lambda _: False)
    code, _, complaint = await outbox_import(outbox, None, "--dry-run")
    assert (code, "give this user write access" in complaint) == (Exit.FAILED, True)


async def test_a_file_that_is_no_outbox_is_refused(tmp_path: Path) -> None:
    """The reason is told, and nothing in it was changed."""
    outbox = tmp_path / "outbox.db"
    outbox.write_text("no database" * 100)
    code, _, complaint = await outbox_import(outbox, None)
    assert code == Exit.FAILED
    assert "cannot be used: it is damaged, or no SQLite file" in complaint

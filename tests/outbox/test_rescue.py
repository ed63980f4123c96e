"""Rows of an outbox become records: which are taken, what they become, and what stays where it is."""

import json
import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.sdk_outbox import file
from gateway.sdk_outbox.file import ABANDONED_SECONDS
from gateway.sdk_outbox.model import OutboxBusy, OutboxUnusable, Outcome, Row
from gateway.tenants import Tenant, TenantTable, digest_of
from spool.records import Fragment
from tests.outbox.outbox_rescue import Rescue, rescuing
from tests.outbox.sdk import KEY, rows, write

FULL: dict[str, Any] = {"call_id": "call-1", "wcall_event": "call_ended", "turns": 3, "telemetry_data": {"spans": [1]}}
EXIT: dict[str, Any] = {"call_id": "call-1", "wcall_event": "call_ended", "turns": 3}


@pytest.mark.parametrize(
    ("row", "taken"),
    [
        ({"status": "pending", "next_attempt_at": -1.0}, True),
        ({"status": "pending", "next_attempt_at": 1.0}, False),
        ({"status": "in_progress", "claimed_at": -ABANDONED_SECONDS}, True),
        ({"status": "in_progress", "claimed_at": 1.0 - ABANDONED_SECONDS}, False),
        ({"status": "in_progress", "claimed_at": None, "created_at": -ABANDONED_SECONDS}, True),
        ({"status": "dead", "next_attempt_at": 500.0}, True),
        ({"status": "held-by-somebody"}, False),
    ],
    ids=str,
)
async def test_what_the_sdk_does_not_work_on_is_taken(tmp_path: Path, row: dict[str, Any], taken: bool) -> None:
    """Pending rows that are due, abandoned ones and dead ones are taken; what the SDK may be sending is not touched."""
    async with rescuing(tmp_path) as rescue:
        times = {name: at + rescue.now for name, at in row.items() if isinstance(at, float)}
        write(rescue.outbox, payload=FULL, **{"created_at": rescue.now, **row, **times})
        before = rows(rescue.outbox)
        remains = await rescue.run()
        assert rows(rescue.outbox) == ([] if taken else before)
        assert remains.rows == (0 if taken else 1)
        assert len(await rescue.world.spool.trace("call-1")) == taken


async def test_a_row_with_a_tenants_token_is_that_tenants(tmp_path: Path) -> None:
    """As its post would have been, whatever agent it names, and whatever key rows without one get."""
    token = "token-of-acme"
    table = TenantTable([Tenant("acme", token_digests=frozenset({digest_of(token)})), Tenant("other", ("sales",))])
    async with rescuing(tmp_path, key="operators-key", tenants=table) as rescue:
        payload = json.dumps({"whispey_data": {**FULL, "agent_id": "sales"}, "apikey": token, "api_url": "http://x/"})
        write(rescue.outbox, payload=payload)
        await rescue.run()
        assert (await rescue.world.only_record("call-1")).record.tenant == "acme"


async def test_a_row_becomes_what_its_post_would_have_become(tmp_path: Path) -> None:
    """The agent's key goes beside the record, a missing reason is added, and NaN is null and counted."""
    async with rescuing(tmp_path) as rescue:
        write(rescue.outbox, payload={"call_id": "call-1", "x": math.nan, "telemetry_data": {}})
        await rescue.run()
        record = (await rescue.world.only_record("call-1")).record
        assert await rescue.world.spool.token(record.token_id or 0) == "agents-key-77ab"
        assert json.loads(await rescue.stored("call-1")) == {
            "call_id": "call-1", "x": None, "telemetry_data": {}, "call_ended_reason": "completed"
        }  # fmt: skip
        counted = rescue.world.metrics.registry.get_sample_value("callspool_nonfinite_numbers_total")
        assert counted == 1


@pytest.mark.parametrize("own", [None, "given-by-the-operator"])
async def test_a_row_without_a_key_gets_the_configured_one(tmp_path: Path, own: str | None) -> None:
    """The SDK takes the key from its environment where the agent gives none; the operator can name it."""
    async with rescuing(tmp_path, key=own) as rescue:
        write(rescue.outbox, payload=json.dumps({"whispey_data": FULL, "apikey": None}))
        await rescue.run()
        record = (await rescue.world.only_record("call-1")).record
        assert (record.token_id and await rescue.world.spool.token(record.token_id)) == own


@pytest.mark.parametrize("full_first", [True, False])
@pytest.mark.parametrize("posted", [True, False])
async def test_an_exit_row_never_replaces_a_full_end(tmp_path: Path, *, full_first: bool, posted: bool) -> None:
    """The last end that is sent of a call is the full one, in whichever order the two come, posted or from a row."""
    async with rescuing(tmp_path) as rescue:
        for data in (FULL, EXIT) if full_first else (EXIT, FULL):
            if data is FULL and posted:
                assert (await rescue.world.post(data, headers={"x-pype-token": KEY})).status == 202
            else:
                write(rescue.outbox, payload=data)
                await rescue.run()
        assert rows(rescue.outbox) == []
        sent = [each for each in await rescue.world.spool.trace("call-1") if each.deliveries]
        assert len(sent) == (1 if full_first else 2)
        assert b"spans" in await rescue.world.stored(sent[-1].record)
        assert rescue.outcomes[Outcome.SUPERSEDED] == full_first


@pytest.mark.parametrize(
    "payload",
    ["", "{", "[]", "{}", json.dumps({"whispey_data": None}), json.dumps({"whispey_data": {}})],
)
async def test_a_row_that_is_no_call_log_blocks_nothing(tmp_path: Path, payload: str) -> None:
    """It stays as it was, is refused once and not looked at again, and those behind it are taken."""
    async with rescuing(tmp_path) as rescue:
        refused = write(rescue.outbox, payload=payload)
        write(rescue.outbox, payload=FULL)
        await rescue.run()
        await rescue.run()
        assert rows(rescue.outbox) == [(refused, "pending", None)]
        assert rescue.outcomes == {Outcome.REFUSED: 1, Outcome.RESCUED: 1}


async def test_a_large_row_goes_through_the_disk(tmp_path: Path) -> None:
    """A row larger than what is held in memory arrives byte for byte, and leaves no staging file."""
    async with rescuing(tmp_path) as rescue:
        data = {**FULL, "transcript_with_metrics": ["x" * 1000] * 2500, "call_ended_reason": "hung up"}
        write(rescue.outbox, payload=data)
        write(rescue.outbox, payload={**FULL, "call_id": "call-2"}, call_id="call-2")
        await rescue.run()
        assert await rescue.stored("call-1") == json.dumps(data).encode()
        assert rescue.outcomes == {Outcome.RESCUED: 2}
        await rescue.world.until(lambda: not rescue.world.staged_files())


async def test_what_cannot_be_taken_is_given_back_as_it_was(tmp_path: Path) -> None:
    """While the spool is full, rows keep their status and times, and the reason is told."""
    async with rescuing(tmp_path, spool_max=8 << 20) as rescue:
        rescue.world.spool.reserve_staging(5 << 20)
        write(rescue.outbox, payload={**FULL, "x": list(range(600_000))}, status="dead")
        before = rows(rescue.outbox)
        remains = await rescue.run()
        assert rows(rescue.outbox) == before
        assert remains.obstacle is not None
        assert not rescue.outcomes


async def test_many_rows_share_commits_and_keep_the_order_of_each_call(tmp_path: Path) -> None:
    """Rows are taken in batches of different calls, so that the records of one call keep their order."""
    async with rescuing(tmp_path) as rescue:
        for number in range(24):
            call_id = f"call-{number % 8}"
            write(rescue.outbox, payload={**FULL, "call_id": call_id, "turns": number}, call_id=call_id)
        await rescue.run()
        assert rescue.outcomes == {Outcome.RESCUED: 24}
        for call in range(8):
            bodies = [
                await rescue.world.stored(each.record, Fragment.BODY)
                for each in await rescue.world.spool.trace(f"call-{call}")
            ]
            assert [json.loads(body)["turns"] for body in bodies] == [call, call + 8, call + 16]


async def test_a_row_that_somebody_else_claimed_meanwhile_is_left_to_them(tmp_path: Path) -> None:
    """After a pause so long that the SDK took our claim for abandoned, the row is not deleted under it."""
    async with rescuing(tmp_path) as rescue:
        write(rescue.outbox, payload=FULL)
        await rescue.open()
        claimed = await rescue.reader.claim(rescue.now, ())
        later = Rescue(rescue.world, rescue.outbox)
        rescue.world.clock.now += 1000 * ABANDONED_SECONDS
        await later.open()
        assert len((await later.reader.claim(later.now, ())).rows) == 1
        await rescue.reader.settle(rescue.now - ABANDONED_SECONDS, claimed.rows, ())
        assert rows(rescue.outbox) == [(1, "in_progress", later.now)]
        await rescue.reader.close()
        await later.reader.close()


def test_what_is_written_while_it_is_looked_at_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look without locks may see half of what somebody writes: it is made again. What lies damaged is damaged."""
    outbox = tmp_path / "outbox.db"
    for number in range(20):
        write(outbox, call_id=f"call-{number}", payload={"said": "x" * 2_000})
    require_sound = file._require_sound

    def meanwhile(connection: sqlite3.Connection) -> None:
        content = outbox.read_bytes()
        outbox.write_bytes(content[:8192] + bytes(4096) + content[12_288:])
        os.utime(outbox, ns=(0, 0))
        require_sound(connection)

    monkeypatch.setattr(file, "_require_sound", meanwhile)
    for refusal in (OutboxBusy, OutboxUnusable):
        looked_at = file.OutboxFile(outbox, (os.getuid(),))
        with pytest.raises(refusal):
            looked_at.open()
        looked_at.close()


def test_what_is_written_while_its_rows_are_counted_is_no_damage(tmp_path: Path) -> None:
    """Without a log there are no locks then, either."""
    outbox = tmp_path / "outbox.db"
    for number in range(20):
        write(outbox, call_id=f"call-{number}", payload={"said": "x" * 2_000})
    os.utime(outbox, ns=(0, 0))
    looked_at = file.OutboxFile(outbox, (os.getuid(),))
    assert looked_at.open(to_change=False)
    content = outbox.read_bytes()
    outbox.write_bytes(content[:4096] + bytes(len(content) - 4096))
    with pytest.raises(OutboxBusy):
        looked_at.survey(1.0)
    looked_at.close()


def test_rows_that_go_while_they_are_looked_at_are_rows_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK deletes what it has sent whenever it likes: a look sees all of it, or nothing."""
    outbox = tmp_path / "outbox.db"
    for number in range(3):
        write(outbox, call_id=f"call-{number}")
    with closing(sqlite3.connect(outbox, isolation_level=None)) as sdk:
        sdk.execute("UPDATE outbox SET attempts = 1")  # a log lies beside it
        looked_at = file.OutboxFile(outbox, (os.getuid(),))
        assert looked_at.open(to_change=False)
        free_row = looked_at._free_row

        def meanwhile(row_id: int, now: float, *, with_payload: bool = True) -> Row | None:
            sdk.execute("DELETE FROM outbox")
            return free_row(row_id, now, with_payload=with_payload)

        monkeypatch.setattr(looked_at, "_free_row", meanwhile)
        assert [looked_at.survey(1.0).ready, looked_at.survey(1.0).ready] == [3, 0]
        looked_at.close()

"""Calls that are watched while they go on: turns that are durable, agents that are lost, ends that come late."""

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.heartbeats.source import ABOUT_BYTES, POST_BYTES
from gateway.intake.accept import Redactions
from gateway.intake.body_reader import BodyLimits
from gateway.tenants import Tenant, TenantTable, digest_of
from spool.payload.frames import decode
from spool.queue import live
from spool.records import OwnedCall, tenant_of
from tests.budget import budgeted
from tests.heartbeats.watching import LOST_AFTER, Watching, watching
from uploaders.redaction.options import Detector, Redaction

KEY = {"x-pype-token": "agents-key"}


def turn(index: int, content: str = "") -> dict[str, Any]:
    return {"index": index, "role": ("user", "assistant")[index % 2], "content": content or f"said {index}"}


async def test_an_agent_that_falls_silent_gives_a_call_log_with_the_turns_so_far(tmp_path: Path) -> None:
    """Not a moment before the time-out; with what its heartbeats said, and when it was heard of first and last."""
    async with watching(tmp_path) as calls:
        reply = await calls.beat(body={"agent_id": "a", "customer_number": "+49", "metadata": {"n": 1.50}})
        assert (reply.status, reply.json) == (
            200,
            {"call_id": "c", "live": True, "turns": 0, "lost_after_seconds": LOST_AFTER, "success": True},
        )
        await calls.later(10)
        assert (await calls.turns(turn(1), turn(0))).json["turns"] == 2
        assert (await calls.turns(turn(2))).json["turns"] == 3
        await calls.later(LOST_AFTER - 1)
        assert await calls.call_logs() == []
        await calls.later(1)
        (log,) = await calls.call_logs()
        assert log == {
            "call_id": "c",
            "agent_id": "a",
            "customer_number": "+49",
            "metadata": {"n": 1.5},
            "wcall_event": "call_ended",
            "call_started_at": "2023-11-14T22:13:20.000Z",
            "call_ended_at": "2023-11-14T22:13:30.000Z",
            "call_ended_reason": "agent_lost",
            "transcript_type": "agent",
            "transcript_json": [turn(0), turn(1), turn(2)],
        }
        await calls.later(10 * LOST_AFTER)
        assert len(await calls.call_logs()) == 1, "it is said once"


@pytest.mark.parametrize(
    ("began", "expected"),
    [
        (1_699_999_990, "2023-11-14T22:13:10.000Z"),
        (1_699_999_990_250, "2023-11-14T22:13:10.250Z"),
        ("1699999990", "2023-11-14T22:13:10.000Z"),
        ("9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999Z"),
    ],
)
async def test_a_call_began_when_its_agent_says_in_whatever_unit(
    tmp_path: Path, began: int | str, expected: str
) -> None:
    """A JavaScript agent counts milliseconds; no time that it says keeps its call log from being made."""
    async with watching(tmp_path) as calls:
        assert (await calls.beat(body={"call_started_at": began})).status == 200
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["call_started_at"] == expected


async def test_heartbeats_keep_a_call_alive_however_slowly_they_come(tmp_path: Path) -> None:
    """One just before the time-out each time, for an hour."""
    async with watching(tmp_path) as calls:
        for _ in range(60):
            await calls.beat()
            await calls.later(LOST_AFTER - 1)
        assert await calls.call_logs() == []


async def test_a_call_that_ends_leaves_nothing(tmp_path: Path) -> None:
    """Neither rows, nor the key of its agent, nor a word of it later; whether it names its end or not."""
    async with watching(tmp_path, destinations=()) as calls:
        for call_id, event in (("c", {"wcall_event": "call_ended"}), ("d", {})):
            await calls.turns(turn(0), call_id=call_id, headers=KEY)
            await calls.beat(call_id, headers=KEY)
            await calls.world.post({"call_id": call_id, **event}, "/v1/calls", headers=KEY)
        assert await calls.rows() == (0, 0)
        assert await calls.world.spool.reader.ask("SELECT count(*) FROM tokens") == [(0,)]
        await calls.later(10 * LOST_AFTER)
        assert [len(await calls.world.spool.trace(call_id)) for call_id in "cd"] == [1, 1]
        assert calls.watch.calls() == ()


async def test_a_heartbeat_after_the_end_does_not_make_the_call_live_again(tmp_path: Path) -> None:
    """A sender that stops a moment too late would replace the real end by a lost agent."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0))
        await calls.end()
        assert (await calls.beat()).json["live"] is False
        reply = await calls.turns(turn(1))
        assert (reply.status, reply.code) == (409, "call_ended")
        await calls.later(2 * LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["call_ended_reason"] == "completed"


@pytest.mark.parametrize("restarted", [False, True])
async def test_the_real_end_comes_after_an_agent_seemed_lost(tmp_path: Path, restarted: bool) -> None:
    """It is the next call log of the call, over a restart too, and ends what is kept of it."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0))
        await calls.later(LOST_AFTER)
        if not restarted:
            await calls.end()
            assert await calls.rows() == (0, 0)
    async with watching(tmp_path) as calls:
        if restarted:
            await calls.end()
        assert [log["call_ended_reason"] for log in await calls.call_logs()] == ["agent_lost", "completed"]
        await calls.later(2 * LOST_AFTER)
        assert len(await calls.call_logs()) == 2
        assert await calls.rows() == (0, 0)


async def test_an_agent_that_goes_on_after_it_seemed_lost_has_all_of_its_turns(tmp_path: Path) -> None:
    """When it is silent again, a second call log takes the place of the first."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0))
        await calls.later(LOST_AFTER)
        assert calls.watch.calls()[0].state == "lost"
        assert (await calls.turns(turn(1))).json["turns"] == 2
        assert calls.watch.calls()[0].state == "live"
        await calls.later(LOST_AFTER)
        first, second = await calls.call_logs()
        assert (len(first["transcript_json"]), len(second["transcript_json"])) == (1, 2)
        records = await calls.world.spool.trace("c")
        assert [traced.superseded for traced in records] == [False, False]


async def test_what_is_kept_of_a_lost_call_goes_after_a_while(tmp_path: Path) -> None:
    """An hour, in memory and on disk, with the key."""
    async with watching(tmp_path, destinations=()) as calls:
        await calls.turns(turn(0), headers=KEY)
        await calls.later(LOST_AFTER)
        calls.world.clock.now += live.LOST_KEEP - round(LOST_AFTER * 1000)
        await calls.world.spool._maintenance._purge()
        assert await calls.rows() == (1, 1)
        calls.world.clock.now += 1
        await calls.world.spool._maintenance._purge()
        assert await calls.rows() == (0, 0)
        assert await calls.world.spool.reader.ask("SELECT count(*) FROM tokens") == [(0,)]
        assert calls.watch.calls() == ()


async def test_a_turn_that_is_posted_twice_is_one_turn(tmp_path: Path) -> None:
    """By its index, or by its id; with other words it takes the place of the first, where that stood."""
    async with watching(tmp_path) as calls:
        for _ in range(2):
            assert (await calls.turns({"id": "x", "content": "1"}, {"id": 7, "content": "2"})).json["turns"] == 2
        assert (await calls.turns({"id": "x", "content": "once more"}, {"id": "7", "content": "2"})).json["turns"] == 2
        await calls.turns(turn(5), turn(5, "last"), call_id="d")
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert [each["content"] for each in log["transcript_json"]] == ["once more", "2"]
        (log,) = await calls.call_logs("d")
        assert [each["content"] for each in log["transcript_json"]] == ["last"]


async def test_time_in_which_nobody_listened_is_no_silence(tmp_path: Path) -> None:
    """A restart begins the count anew; a process that stood still counts two looks, and a wall clock none."""
    async with watching(tmp_path) as calls:
        await calls.beat()
        await calls.later(LOST_AFTER - 5)
    async with watching(tmp_path) as calls:
        calls.world.clock.now += 3_600_000
        await calls.later(LOST_AFTER - 5)
        calls.ticks.now += 3600
        await calls.watch.look()
        for jump in (-7_200_000, 7_200_000):
            calls.world.clock.now += jump
            await calls.watch.look()
        assert await calls.call_logs() == []
        await calls.later(3)
        (log,) = await calls.call_logs()
        assert log["call_ended_at"] == "2023-11-14T22:13:20.000Z", "when it was heard of, not when it was given up"


async def test_a_clock_that_is_set_back_gives_no_end_before_the_begin(tmp_path: Path) -> None:
    """The end is at the begin at least."""
    async with watching(tmp_path) as calls:
        await calls.beat()
        calls.world.clock.now -= 3_600_000
        await calls.beat()
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["call_started_at"] == log["call_ended_at"]


async def test_a_heartbeat_that_says_nothing_new_writes_nothing(tmp_path: Path) -> None:
    """That is what makes it cheap; what says something new is durable at once."""
    async with watching(tmp_path) as calls:

        async def version() -> int:
            ((found,),) = await calls.world.spool.reader.ask("SELECT version FROM live_calls")
            return int(found)

        about = {"agent_id": "a", "call_started_at": "2026-01-01T00:00:00Z"}
        await calls.beat(body=about)
        for body in (about, b"", {"agent_id": "a"}, about):
            await calls.beat(body=body)
        assert await version() == 1
        await calls.beat(body={**about, "customer_number": "1"})
        await calls.beat(body=about)
        assert await version() == 2


async def test_the_last_heartbeat_is_durable_after_a_while(tmp_path: Path) -> None:
    """So that after a restart the call log says when the agent was heard of, give or take seconds."""
    async with watching(tmp_path) as calls:
        await calls.beat()
        for _ in range(4):
            await calls.later(10)
            await calls.beat()
        ((last,),) = await calls.world.spool.reader.ask("SELECT last_at FROM live_calls")
        assert last >= calls.world.clock.now - 16_000
    async with watching(tmp_path) as calls:
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["call_ended_at"] == "2023-11-14T22:14:00.000Z", "a stop writes it, too"


async def test_a_call_belongs_to_who_posts_it(tmp_path: Path) -> None:
    """The same id with two keys is two calls: neither ends the other, nor hears it, nor has its turns."""
    other = {"x-pype-token": "another-key"}
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0, "mine"), headers=KEY)
        await calls.turns(turn(0, "theirs"), headers=other)
        await calls.end(headers=KEY)
        await calls.later(LOST_AFTER)
        real, lost = await calls.call_logs()
        assert (real["call_ended_reason"], lost["call_ended_reason"]) == ("completed", "agent_lost")
        assert lost["transcript_json"] == [turn(0, "theirs")]
        record = (await calls.world.spool.trace("c"))[1].record
        assert await calls.world.spool.token(record.token_id or 0) == "another-key"


async def test_a_key_in_the_body_names_the_same_sender_as_in_the_header(tmp_path: Path) -> None:
    """The SDK puts it into both; and it is never part of what is sent on."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0), about={"token": "agents-key", "agent_id": "a"})
        await calls.later(LOST_AFTER / 2)
        await calls.beat(headers=KEY)
        assert len(calls.watch.calls()) == 1
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert "token" not in log
        await calls.end(headers=KEY)
        assert await calls.rows() == (0, 0)


async def test_an_id_that_is_used_again_is_another_call(tmp_path: Path) -> None:
    """By its start, or by the time in its heartbeats; the end of the earlier one, posted late, does not end it."""
    async with watching(tmp_path) as calls:
        await calls.end(body={"call_ended_at": "2026-01-01T00:00:00Z"})
        assert (await calls.beat()).json["live"] is False
        again = {"call_started_at": "2026-01-02T00:00:00Z"}
        assert (await calls.beat(body=again)).json["live"] is True
        await calls.end(body={"call_ended_at": "2026-01-01T00:00:01Z"})
        assert (await calls.rows())[0] == 1
        await calls.end(body={"call_ended_at": "2026-01-02T00:00:01Z"})
        assert (await calls.rows())[0] == 0
        start = {"call_id": "c", "wcall_event": "call_started", "call_started_at": "2026-01-03T00:00:00Z"}
        await calls.world.post(start, "/v1/calls")
        assert (await calls.beat()).json["live"] is True
        late = {"call_id": "d", "wcall_event": "call_started"}
        await calls.end("d")
        await calls.world.post(late, "/v1/calls")
        assert (await calls.beat("d")).json["live"] is False, "a start that came after its end began nothing"


async def test_the_end_of_an_earlier_call_does_not_keep_an_agent_from_being_lost(tmp_path: Path) -> None:
    """Where the call is known to be live, it does not matter what the ends of its id say of their times."""
    async with watching(tmp_path) as calls:
        await calls.beat(body={"call_started_at": "2026-01-02T00:00:00Z"})
        await calls.end(body={"call_ended_at": "2026-01-01T00:00:00Z"})
        await calls.later(LOST_AFTER)
        assert [traced.superseded for traced in await calls.world.spool.trace("c")] == [False, False]


async def test_an_end_that_comes_while_a_lost_call_is_being_made_wins(tmp_path: Path) -> None:
    """Whatever the moment: there is never a lost agent behind the real end."""
    for _ in range(5):
        async with watching(tmp_path) as calls:
            for number in range(8):
                await calls.turns(turn(0), call_id=f"c{number}")
            calls.ticks.now += 1
            for _ in range(40):
                calls.ticks.now += 2
                calls.watch._listening.advance()
            await asyncio.gather(calls.watch.look(), *(calls.end(f"c{number}") for number in range(8)))
            for number in range(8):
                reasons = [log["call_ended_reason"] for log in await calls.call_logs(f"c{number}")]
                assert reasons in (["completed"], ["agent_lost", "completed"])
            assert await calls.rows() == (0, 0)
            await _forget(calls)


async def _forget(calls: Watching) -> None:
    await calls.world.spool._writer.submit(lambda transaction: transaction.execute("DELETE FROM records"))


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("c/heartbeat", b"{", 400, "not_json"),
        ("c/heartbeat", b"[1]", 400, "not_an_object"),
        ("c/heartbeat", {"turns": []}, 422, "turns_in_heartbeat"),
        ("c/heartbeat", {"metadata": "x" * ABOUT_BYTES}, 413, "too_large"),
        ("c/turns", b"", 400, "not_json"),
        ("c/turns", {}, 422, "bad_turn"),
        ("c/turns", {"turns": []}, 422, "bad_turn"),
        ("c/turns", {"turns": {"index": 1}}, 422, "bad_turn"),
        ("c/turns", {"turns": [1]}, 422, "bad_turn"),
        ("c/turns", {"turns": [{"role": "user"}]}, 422, "bad_turn"),
        ("c/turns", {"turns": [{"index": -1}]}, 422, "bad_turn"),
        ("c/turns", {"turns": [{"index": 1.5}]}, 422, "bad_turn"),
        ("c/turns", {"turns": [{"index": 1 << 60}]}, 422, "bad_turn"),
        ("c/turns", {"turns": [{"id": ""}]}, 422, "bad_turn"),
        ("c/turns", {"turns": [{"id": "x" * 201}]}, 422, "bad_turn"),
        ("c/turns", {"turns": [turn(0)] * 1001}, 422, "bad_turn"),
        ("c/turns", {"turns": [turn(0, "x" * POST_BYTES)]}, 413, "too_large"),
        ("c/turns", b"x" * 50_000, 400, "not_json"),
        ("c/turns", b'{"turns": [{"index": 0, "at": NaN}], "x": "' + b"y" * (100 << 10) + b'"}', 413, "too_complex"),
        ("%20/turns", {"turns": [turn(0)]}, 422, "bad_call_id"),
        ("x" * 513 + "/heartbeat", b"", 422, "bad_call_id"),
    ],
)
async def test_what_cannot_be_taken_is_refused_with_a_hint(
    tmp_path: Path, path: str, body: Any, status: int, code: str
) -> None:
    """And nothing of it is kept."""
    async with watching(tmp_path) as calls:
        reply = await calls._post(path, body)
        assert (reply.status, reply.code) == (status, code)
        assert reply.json["error"]["hint"]
        assert await calls.rows() == (0, 0)


async def test_values_pass_as_they_came(tmp_path: Path) -> None:
    """Numbers, escapes and halves of surrogate pairs; NaN becomes null, as in every call log."""
    body = rb'{"turns": [{"index": 0, "content": "\ud83d \u00e9", "confidence": 0.10, "at": NaN}]}'
    async with watching(tmp_path) as calls:
        assert (await calls._post("a%2Fb%20c/turns", body)).status == 200
        await calls._post("a%2Fb%20c/heartbeat", b'{"metadata" : 1e2, "title": "\\udc00"}')
        await calls.later(LOST_AFTER)
        (traced,) = await calls.world.spool.trace("a/b c")
        stored = await calls.world.stored(traced.record)
        assert rb'[{"index": 0, "content": "\ud83d \u00e9", "confidence": 0.10, "at": null}]' in stored
        assert b'"metadata":1e2,"title":"\\udc00"' in stored


async def test_what_makes_a_document_something_else_is_left_out(tmp_path: Path) -> None:
    """A heartbeat can make neither a reference nor a detail of the call log, nor another end."""
    theirs: dict[str, Any] = {
        "s3_reference": True, "s3_key": "x", "update_type": "detailed_telemetry", "wcall_event": "call_started",
        "call_id": "other", "call_ended_reason": "completed", "transcript_json": [1], "mine": 1,
    }  # fmt: skip
    async with watching(tmp_path) as calls:
        await calls.beat(body=theirs)
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert (log["call_id"], log["call_ended_reason"], log["transcript_json"]) == ("c", "agent_lost", [])
        assert (log["mine"], "s3_key" in log, "update_type" in log) == (1, False, False)


async def test_a_damaged_turn_is_left_out_and_counted(tmp_path: Path) -> None:
    """What is whole is sent."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0), turn(1), turn(2))
        await calls.world.spool._writer.submit(
            lambda transaction: transaction.execute("UPDATE live_turns SET frame = zeroblob(9) WHERE place = 1")
        )
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert (log["transcript_json"], log["damaged_turns"]) == ([turn(0), turn(2)], 1)


async def test_a_call_has_a_limit_and_its_turns_so_far_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By count and by bytes; the agent posts its end as usual."""
    monkeypatch.setattr(live, "MOST_TURNS", 3)
    monkeypatch.setattr(live, "CALL_BYTES", 2_000)
    async with watching(tmp_path) as calls:
        assert (await calls.turns(turn(0), turn(1))).status == 200
        reply = await calls.turns(turn(2), turn(3))
        assert (reply.status, reply.code) == (413, "call_too_large")
        reply = await calls.turns(turn(2, "x" * 2_000))
        assert (reply.status, reply.code) == (413, "call_too_large")
        assert (await calls.turns(turn(1, "other"))).status == 200
        assert await calls.rows() == (1, 2)
        assert (await calls.end()).status == 202


async def test_live_calls_share_a_part_of_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above it turns are refused, of the sender that has much before the others; posts go on."""
    monkeypatch.setattr(live, "MOST", 4)
    monkeypatch.setattr(live, "MOST_OF_SENDER", 3)
    async with watching(tmp_path, spool_max=8 << 20) as calls:
        for number in range(3):
            assert (await calls.beat(f"c{number}", headers=KEY)).status == 200
        reply = await calls.beat("more", headers=KEY)
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (429, "too_many_live_calls", "30")
        assert (await calls.beat("other")).status == 200
        large = turn(0, "x" * 200_000)
        assert (await calls.turns(large, call_id="c0", headers=KEY)).status == 200
        assert (await calls.turns(large, call_id="c1", headers=KEY)).code == "too_many_live_calls"
        assert (await calls.turns(large, call_id="other")).status == 200
        assert (await calls.end("c0", headers=KEY)).status == 202
        assert (await calls.turns(large, call_id="c1", headers=KEY)).status == 200, "an end makes room"


async def test_a_lost_call_waits_for_a_spool_that_is_full(tmp_path: Path) -> None:
    """It is made when there is room again."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0))
        quota = calls.world.spool._quota
        limit, quota.limit_bytes = quota.limit_bytes, 1
        await calls.later(LOST_AFTER + 2)
        assert await calls.call_logs() == []
        quota.limit_bytes = limit
        await calls.later(6)
        assert len(await calls.call_logs()) == 1


async def test_a_heartbeat_counts_although_it_is_refused(tmp_path: Path) -> None:
    """An agent does not seem lost because this gateway cannot write."""
    async with watching(tmp_path) as calls:
        await calls.beat()
        await calls.later(LOST_AFTER - 5)
        quota = calls.world.spool._quota
        limit, quota.limit_bytes = quota.limit_bytes, 1
        assert (await calls.turns(turn(0))).status in {429, 507}
        quota.limit_bytes = limit
        await calls.later(LOST_AFTER - 5)
        assert await calls.call_logs() == []


async def test_a_receiver_does_not_send_a_lost_agent_after_the_real_end(tmp_path: Path) -> None:
    """Two gateways before it: one heard the agent last, the other has its end. A later one is sent, as all ends are."""
    async with watching(tmp_path) as calls:
        await calls.end(body={"call_ended_at": "2026-01-01T00:00:10Z"})
        await calls.end(reason="agent_lost", body={"call_ended_at": "2026-01-01T00:00:05Z"})
        await calls.end(reason="agent_lost", body={"call_ended_at": "2026-01-02T00:00:05Z"})
        await calls.end("d", reason="agent_lost", body={"call_ended_at": "2026-01-01T00:00:05Z"})
        await calls.end("d", reason="agent_lost", body={"call_ended_at": "2026-01-01T00:00:09Z"})
        await calls.end("d")
        assert [traced.superseded for traced in await calls.world.spool.trace("c")] == [False, True, False]
        assert [traced.superseded for traced in await calls.world.spool.trace("d")] == [False, False, False]


async def test_turns_are_redacted_before_they_are_stored(tmp_path: Path) -> None:
    """They wait in the spool until the call ends, as its own call log will."""
    rules = Redactions(Redaction((Detector.CARD,)))
    async with watching(tmp_path, redactions=rules) as calls:
        await calls.beat(body={"agent_id": "a", "note": "4111 1111 1111 1111"})
        await calls.turns(turn(0, "my card is 4111 1111 1111 1111"))
        rows = await calls.world.spool.reader.ask("SELECT frame FROM live_turns")
        assert {decode(frame) for (frame,) in rows} == {
            b'"note":"[card]"',
            json.dumps(turn(0, "my card is [card]")).encode(),
        }
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert (log["note"], log["transcript_json"][0]["content"]) == ("[card]", "my card is [card]")


async def test_nothing_is_kept_of_a_call_that_was_erased(tmp_path: Path) -> None:
    """Neither from posts after the order, nor from one that was on its way; no lost agent is told of."""
    async with watching(tmp_path) as calls:
        await calls.turns(turn(0))
        spool = calls.world.spool
        await spool.erasures.order([OwnedCall("c")])
        for reply in (await calls.turns(turn(1)), await calls.beat()):
            assert (reply.status, reply.code) == (410, "erased")
        assert await calls.rows() == (1, 1), "the order is written down, and not yet carried out"
        await calls.later(LOST_AFTER)
        assert await calls.rows() == (0, 0)
        assert await calls.call_logs() == []


async def test_nothing_is_taken_of_a_call_that_was_erased_of_the_tenant_of_its_agent(tmp_path: Path) -> None:
    """Whose call it is may stand in the body alone: the call of the same id of another tenant goes on."""
    tenants = TenantTable([Tenant("acme", agents=("a",)), Tenant("other", agents=("o",))])
    async with watching(tmp_path, tenants=tenants) as calls:
        erasures = calls.world.spool.erasures
        erasures.whose = lambda principal, agent_id: tenant_of(principal) or tenants.of_agent(agent_id) or ""
        await erasures.order([OwnedCall("c", "acme")])
        acmes, others = {"agent_id": "a"}, {"agent_id": "o"}
        refused = (await calls.turns(turn(0), about=acmes), await calls.beat(body=acmes))
        assert [(reply.status, reply.code) for reply in refused] == [(410, "erased")] * 2
        assert await calls.rows() == (0, 0)
        assert (await calls.turns(turn(0), about=others)).status == 200


async def test_an_erasure_for_a_tenant_leaves_the_live_call_of_another(tmp_path: Path) -> None:
    """The same id of two tenants is two live calls, by their agents where no token says whose they are."""
    tenants = TenantTable([Tenant("acme", agents=("a",)), Tenant("other", agents=("o",))])
    async with watching(tmp_path, tenants=tenants) as calls:
        erasures = calls.world.spool.erasures
        erasures.whose = lambda _principal, agent_id: tenants.of_agent(agent_id) or ""
        await calls.turns(turn(0), about={"agent_id": "o"})
        assert (await erasures.holdings(OwnedCall("c", "acme"))).turns == 0
        await erasures.give_up(OwnedCall("c", "acme"))
        assert (await erasures.holdings(OwnedCall("c", "other"))).turns == 1
        await erasures.give_up(OwnedCall("c", "other"))
        assert await calls.rows() == (0, 0)


async def test_a_call_belongs_to_the_tenant_of_the_token_or_of_the_agent(tmp_path: Path) -> None:
    """The same id of two tenants is two calls; a lost agent is told of to its tenant, with the token of that."""
    acme = Tenant("acme", token_digests=frozenset({digest_of("acmes-token")}), endpoint_token="for-acme")
    tenants = TenantTable([acme, Tenant("other", agents=("of-other",))])
    token = {"Authorization": "Bearer acmes-token"}
    async with watching(tmp_path, tenants=tenants) as calls:
        assert (await calls.turns(turn(0, "acme's"), headers=token)).status == 200
        assert (await calls.beat()).status == 401
        tenants_alone = TenantTable([Tenant("other", agents=("of-other",))])
    async with watching(tmp_path, tenants=tenants_alone) as calls:
        await calls.turns(turn(0, "other's"), about={"agent_id": "of-other"})
        await calls.end(body={"agent_id": "of-other"})
    async with watching(tmp_path, tenants=tenants) as calls:
        assert [(each.tenant, each.turns) for each in calls.watch.calls()] == [("acme", 1)]
        await calls.later(LOST_AFTER)
        ended, lost = [traced.record for traced in await calls.world.spool.trace("c")]
        assert (ended.tenant, lost.tenant) == ("other", "acme")
        assert await calls.world.spool.token(lost.token_id or 0) == "for-acme"


async def test_the_turns_of_a_lost_agent_may_be_more_than_one_post(tmp_path: Path) -> None:
    """Each came in a post that was within the limit; together they are above it."""
    async with watching(tmp_path, bodies=BodyLimits(body_max=400)) as calls:
        for index in range(4):
            assert (await calls.turns(turn(index, "x" * 200))).status == 200
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert len(log["transcript_json"]) == 4


async def test_what_is_said_is_redacted_before_it_is_stored(tmp_path: Path) -> None:
    """By the rules for call logs, those for fields too; a turn is the same turn all the same."""
    rules = Redaction(detect=(Detector.EMAIL,), fields=("transcript_json.secret", "metadata.code"))
    async with watching(tmp_path, redactions=Redactions(rules)) as calls:
        await calls.beat(body={"metadata": {"code": "4711", "of": "a@example.com"}})
        said = {"index": 0, "content": "mail a@example.com", "secret": "hush"}
        for _ in range(2):
            assert (await calls.turns(said, {"id": "b@example.com", "content": "yes"})).json["turns"] == 2
        turns = [each async for each in calls.world.spool.live.turns("c", "")]
        about = await calls.world.spool.live.about("c", "")
        assert b"a@example.com" not in b"".join([*filter(None, turns), about or b""])
        assert b"4711" not in (about or b"")
        await calls.later(LOST_AFTER)
        (log,) = await calls.call_logs()
        assert log["transcript_json"][0] == {"index": 0, "content": "mail [e-mail]", "secret": "[redacted]"}
        assert log["metadata"] == {"code": "[redacted]", "of": "[e-mail]"}


async def test_whatever_is_posted_is_answered(tmp_path: Path) -> None:
    """Damaged bodies of every kind: never a 5xx, and what is answered 200 is a turn."""
    chance = Random(5)
    whole = json.dumps({"turns": [turn(0), {"id": "x", "content": "\ud800 é"}], "agent_id": "a", "n": 1.5}).encode()
    async with watching(tmp_path) as calls:
        for _ in range(budgeted(small=150, full=3000)):
            body = bytearray(whole)
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(body))
                match chance.randrange(3):
                    case 0:
                        body[at] = chance.choice(b'\x00"[]{},:\\N9\xff')
                    case 1:
                        del body[at : at + chance.randint(1, 20)]
                    case _:
                        body[at:at] = chance.choice((b"NaN", b"[" * 40, b"\\ud800", b'"a":', b"1e999"))
            for path in ("c/turns", "c/heartbeat"):
                reply = await calls._post(path, bytes(body))
                assert reply.status in {200, 400, 413, 422}, (body, reply.raw)
        await calls.later(LOST_AFTER)
        assert all(isinstance(log["transcript_json"], list) for log in await calls.call_logs())

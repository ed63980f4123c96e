"""Whose key a call log comes with decides what it repeats and supersedes; so does an `Idempotency-Key`."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.calllog.document import outline_of
from gateway.calllog.document import parse as parse_document
from spool.records import Delivered, Lane, principal_of
from tests.intake.bodies import call_log
from tests.intake.running_intake import RunningIntake

END = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


async def duplicate(world: RunningIntake, body: bytes, **headers: str) -> bool:
    reply = await world.post(body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert reply.status == 202, reply.json
    return bool(reply.json["duplicate"])


async def delivered(world: RunningIntake) -> None:
    """Everything that is owed is confirmed."""
    while ready := (await world.spool.due("endpoint", Lane.CORE, now=world.clock(), limit=10)).deliveries:
        for delivery in ready:
            await world.spool.settle(delivery, Delivered())


KEYS = [
    # the keys of two equal posts, each as (header, token in the body), and whether the second is a duplicate
    ("one key", ("k", None), ("k", None), True),
    ("a corrected key", ("wrong", None), ("right", None), False),
    ("a corrected token", (None, "wrong"), (None, "right"), False),
    ("the same key in another place", ("k", None), (None, "k"), True),
    ("the header wins", ("k", "a"), ("k", "b"), True),
    ("none, then one", (None, None), ("k", None), False),
    ("none", (None, None), (None, None), True),
]


@pytest.mark.parametrize(("first", "second", "expected"), [row[1:] for row in KEYS], ids=[row[0] for row in KEYS])
async def test_a_duplicate_comes_with_the_same_key(
    world: RunningIntake, first: tuple[str | None, str | None], second: tuple[str | None, str | None], expected: bool
) -> None:
    """The same body with a corrected key is accepted and sent: its digest has no token, its identity has."""
    found = []
    for header, token in (first, second):
        body = call_log() if token is None else call_log(token=token)
        found.append(await duplicate(world, body, **({} if header is None else {"x_pype_token": header})))
    assert found == [False, expected]
    principals = {record.record.principal for record in await world.spool.trace("call-1")}
    assert principals == {principal_of(None, header or token) for header, token in (first, second)}


async def test_a_change_back_is_sent(world: RunningIntake) -> None:
    """A, B, A: the third post is none of the first, once both were delivered; B, B is."""
    a, b = call_log(status="a"), call_log(status="b")
    found = []
    for body in (a, b, a, a, b):
        found.append(await duplicate(world, body))
        await delivered(world)
    assert found == [False, False, False, True, False]


async def test_the_senders_key_says_which_posts_are_one(world: RunningIntake) -> None:
    """`Idempotency-Key` overrules what seems equal, both ways, and is the sender's own."""
    a, b = call_log(status="a"), call_log(status="b")
    assert not await duplicate(world, a, Idempotency_Key="1")
    assert not await duplicate(world, a, Idempotency_Key="2")
    assert not await duplicate(world, b, Idempotency_Key="3")
    await delivered(world)
    assert await duplicate(world, a, Idempotency_Key="1")
    assert not await duplicate(world, a, Idempotency_Key="1", x_pype_token="another sender's")


async def test_each_line_of_a_batch_has_a_key_of_its_own(world: RunningIntake) -> None:
    """A batch that is sent again with its key is recognised line by line; equal lines of it are different posts."""
    batch = b"\n".join([call_log("c"), call_log("c"), call_log("d")])
    for expected in (False, True):
        reply = await world.post(batch, "/v1/calls/batch", headers={"Idempotency-Key": "batch-7"})
        lines = [json.loads(line) for line in reply.raw.splitlines()]
        assert [line["duplicate"] for line in lines] == [expected] * 3


def moment(seconds: int, **fields: str) -> str:
    return (END + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("began", "superseded"),
    [
        pytest.param(moment(-60), True, id="before"),
        pytest.param(moment(60), False, id="after"),
        pytest.param((END + timedelta(seconds=60)).timestamp(), False, id="after, as a number"),
        pytest.param(moment(60).removesuffix("+00:00"), False, id="after, without an offset"),
        pytest.param("tomorrow", True, id="no time"),
        pytest.param(None, True, id="null"),
        pytest.param({"at": moment(60)}, True, id="something else"),
    ],
)
async def test_a_call_id_that_is_used_again_is_a_live_call(world: RunningIntake, began: Any, superseded: bool) -> None:
    """A start that is later than the end before it, by their own times, is sent and is live."""
    await world.post(call_log("room", call_ended_at=END.isoformat()))
    await world.post(call_log("room", wcall_event="call_started", call_started_at=began))
    records = await world.spool.trace("room")
    assert [record.superseded for record in records] == [False, superseded]
    assert world.intake.open_calls.open_calls(world.clock()) == (not superseded)


async def test_a_late_end_of_the_call_before_leaves_the_next_one_live(world: RunningIntake) -> None:
    """Two calls in one room, whose posts overtake each other; and a forged end of somebody else."""
    live = world.intake.open_calls
    await world.post(call_log("room", wcall_event="call_started", call_started_at=moment(60)))
    await world.post(call_log("room", call_ended_at=moment(30)))
    assert live.open_calls(world.clock()) == 1
    await world.post(call_log("room", call_ended_at=moment(90)), headers={"x-pype-token": "forged"})
    assert live.open_calls(world.clock()) == 1
    await world.post(call_log("room", call_ended_at=moment(90)))
    assert live.open_calls(world.clock()) == 0


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        ("call_started", {"call_started_at": 1.5}, 1500),
        ("call_ended", {"call_started_at": 1, "call_ended_at": 2}, 2000),
        ("call_ended", {"call_started_at": 1}, None),
        ("recording", {"call_ended_at": 2}, None),
        ("call_ended", {"call_ended_at": 1_769_860_800_250}, 1_769_860_800_250),
        ("call_ended", {"call_ended_at": 1_769_860_800_250_000_000}, 1_769_860_800_250),
        ("call_ended", {"call_ended_at": "1769860800"}, 1_769_860_800_000),
        ("call_ended", {"call_ended_at": "9999-12-31T23:59:59-14:00"}, 253_402_300_799_999),
        ("call_ended", {"call_ended_at": -5}, 0),
        ("call_ended", {"call_ended_at": True}, None),
        ("call_ended", {"call_ended_at": "9" * 100}, None),
    ],
)
def test_the_time_of_an_event(event: str, fields: dict[str, Any], expected: int | None) -> None:
    """That of the start for a start, of the end for an end; whatever stands there refuses no call log."""
    assert parse_document(call_log(wcall_event=event, **fields)).happened_at == expected


def test_a_list_shows_the_length_of_a_call_in_whatever_unit_its_times_are() -> None:
    """Four minutes are four minutes, whether the agent counts seconds, milliseconds or writes dates."""
    for began, ended in (
        (1_769_860_800, 1_769_861_040),
        (1_769_860_800_000, 1_769_861_040_000),
        ("2026-01-31T12:00:00Z", 1_769_861_040_000),
    ):
        document = parse_document(call_log(wcall_event="call_ended", call_started_at=began, call_ended_at=ended))
        assert outline_of(document).length_ms == 240_000


async def test_a_repeated_put_is_a_duplicate_though_its_token_is_gone(world: RunningIntake) -> None:
    """The key that came with the request for the address is forgotten when it is used; the address stays the same."""
    given = await world.post(b'{"call_id": "call-1"}', "/get-upload-url", headers={"x-pype-token": "k"})
    path = "/uploads/" + given.json["upload_url"].rpartition("/")[2]
    replies = [await world.ask("PUT", path, call_log()) for _ in range(3)]
    assert [(reply.status, reply.json["duplicate"]) for reply in replies] == [(200, False), (200, True), (200, True)]
    assert (await world.only_record("call-1")).record.principal == principal_of(None, "k")

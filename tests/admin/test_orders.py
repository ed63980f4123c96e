"""Orders about dead letters over a real socket, to a real spool."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError

from spool.records import DeadLetter, Delivered, DeliveryState, Hold, Lane, RetryAt
from tests.admin.admin_app import AskedSpoolAdmin
from tests.spool.spool_parts import BUCKET, ENDPOINT, HOUR, NOW, OBJECT, a_record, decoded, states, write

DEAD, HELD, READY, WAITING, DISCARDED = (
    DeliveryState.DEAD,
    DeliveryState.HELD,
    DeliveryState.READY,
    DeliveryState.WAITING,
    DeliveryState.DISCARDED,
)


async def test_a_dead_letter_is_listed_with_all_that_is_needed_to_judge_it(admin: AskedSpoolAdmin) -> None:
    """The list tells which call, where to, what, why, since when, how often it failed and how large it is."""
    await admin.buried("call 1", reason="HTTP 400: token=hush is wrong")
    admin.clock.now += HOUR
    (letter,) = (await admin.list())["deliveries"]
    assert letter["key"] == f"{letter['record_id']}/core/{ENDPOINT}"
    assert letter["idempotency_key"] == f"{letter['record_id']}-core"
    told = ("call_id", "destination", "form", "state", "reason", "attempts", "age_seconds", "bytes")
    document = b'{"base": 1,"derived": 1}'
    expected = ("call 1", ENDPOINT, "core", "dead", "HTTP 400: token=*** is wrong", 1, 3600.0, len(document))
    assert tuple(letter[name] for name in told) == expected


@pytest.mark.parametrize(
    ("query", "found"),
    [
        pytest.param({}, ["a", "b", "c"], id="all"),
        pytest.param({"destination": BUCKET}, ["c"], id="destination"),
        pytest.param({"destination": "nobody"}, [], id="unknown destination"),
        pytest.param({"destination": "", "target": "a"}, [], id="an empty destination is none"),
        pytest.param({"form": "core"}, ["a", "b"], id="form"),
        pytest.param({"reason": "http 400"}, ["a", "c"], id="reason"),
        pytest.param({"older_than": "1800"}, ["a"], id="older"),
        pytest.param({"newer_than": "1800"}, ["b", "c"], id="newer"),
        pytest.param({"target": "b"}, ["b"], id="call"),
        pytest.param({"state": "held"}, ["a", "b"], id="held with its core"),
        pytest.param({"state": ["dead", "queued"], "target": "a"}, ["a", "a"], id="several states"),
    ],
)
async def test_filters_narrow_the_list(admin: AskedSpoolAdmin, query: dict[str, Any], found: list[str]) -> None:
    """Each filter alone selects what it says, in commit order."""
    await admin.buried("a", reason="HTTP 400: no")
    admin.clock.now += HOUR
    await admin.buried("b", reason="HTTP 413")
    await admin.buried("c", OBJECT, reason="HTTP 400")
    assert [one["call_id"] for one in (await admin.list(**query))["deliveries"]] == found


async def test_a_record_or_one_of_its_deliveries_can_be_named(admin: AskedSpoolAdmin) -> None:
    """A record id stands for all its deliveries, a key for one; another spool's ids are calls that nobody knows."""
    letter = await admin.buried("a")
    uid = letter.record.uid
    both = {"state": ["dead", "held"]}
    assert len((await admin.list(target=uid, **both))["deliveries"]) == 2
    assert len((await admin.list(target=f"{uid}/detail", **both))["deliveries"]) == 1
    assert len((await admin.list(target=f"{uid}/core/{ENDPOINT}", **both))["deliveries"]) == 1
    assert (await admin.list(target=f"{uid}/core/{BUCKET}", **both))["deliveries"] == []
    assert (await admin.list(target="00000000-1", **both))["deliveries"] == []


async def test_pages_join_to_the_whole_list(admin: AskedSpoolAdmin) -> None:
    """The cursor of one page begins the next; pages are bounded, and none is lost or shown twice."""
    for number in range(7):
        await admin.buried(f"c{number}", reason="even" if number % 2 == 0 else "odd")
    for query in ({}, {"reason": "even"}):
        seen, pages = [], 0
        cursor: str | None = ""
        while cursor is not None:
            page = await admin.list(limit=2, **query, **({"cursor": cursor} if cursor else {}))
            assert len(page["deliveries"]) <= 2
            seen += [one["call_id"] for one in page["deliveries"]]
            cursor, pages = page["cursor"], pages + 1
        assert seen == [f"c{number}" for number in range(0, 7, 2 if query else 1)]
        assert pages == 4


async def test_an_order_is_carried_out_step_by_step(admin: AskedSpoolAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is bounded and durable; the cursor leads through all of them, and a dry run changes nothing."""
    monkeypatch.setattr("gateway.operations.service.LIMIT", 2)
    for number in range(5):
        await admin.buried(f"c{number}")
    for dry_run, done in ((True, 0), (False, 5)):
        steps: list[Any] = []
        cursor = None
        while not steps or cursor is not None:
            steps.append(await admin.order("replay", dry_run=dry_run, **({"cursor": cursor} if cursor else {})))
            cursor = steps[-1]["cursor"]
        assert [step["matched"] for step in steps] == [2, 2, 1]
        assert sum(step["done"] for step in steps) == done
        assert sum(step["matched_bytes"] for step in steps) == 5 * len(b'{"base": 1,"derived": 1}')
    assert await states(admin.spool, "c3") == [READY, WAITING]


async def test_an_order_that_broke_off_goes_on_when_it_is_given_again(
    admin: AskedSpoolAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step did stays done; the same order from its beginning finds only what is left."""
    monkeypatch.setattr("gateway.operations.service.LIMIT", 2)
    for number in range(3):
        await admin.buried(f"c{number}")
    first = await admin.order("replay")
    again = await admin.order("replay")
    assert [(step["matched"], step["done"]) for step in (first, again)] == [(2, 2), (1, 1)]


async def test_discarding_a_core_discards_what_is_held_with_it(admin: AskedSpoolAdmin) -> None:
    """The detail of a discarded core is not sent to an endpoint that never had the core."""
    await admin.buried("a")
    assert await states(admin.spool, "a") == [DEAD, HELD]
    step = await admin.order("discard", {"target": "a"})
    assert (step["matched"], step["done"]) == (1, 2)
    assert await states(admin.spool, "a") == [DISCARDED, DISCARDED]
    assert all(lane.unaccounted == 0 for lane in admin.spool.stats().lanes.values())


async def test_what_is_replayed_goes_in_the_order_of_its_call(admin: AskedSpoolAdmin) -> None:
    """Of two dead letters of a call the later one waits for the earlier one, with the keys that they had."""
    letters = [await admin.buried("a", reason="x") for _ in range(2)]
    await admin.order("replay")
    (first,) = (await admin.spool.due(ENDPOINT, Lane.CORE, now=NOW, limit=9)).deliveries
    freed = await admin.spool.settle(first, Delivered())
    keys = [first.idempotency_key, *(one.idempotency_key for one in freed if one.lane is Lane.CORE)]
    assert keys == [letter.idempotency_key for letter in letters]


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("replay", b"{", "truncated"),
        ("replay", b"{}", "select"),
        ("replay", b'{"select": {"states": ["lost"]}}', "there is no state 'lost': say ready"),
        ("replay", b'{"select": {"form": "half"}}', "there is no form 'half': say whole"),
        ("replay", b'{"select": {"older_than": 1e99}}', "is no span of time"),
        ("replay", b'{"select": {"detination": "x"}}', "detination"),
        ("replay", b'{"select": {}, "cursor": "x"}', "the cursor 'x' is not one"),
    ],
)
async def test_an_order_that_cannot_be_meant_is_refused(
    admin: AskedSpoolAdmin, name: str, body: bytes, said: str
) -> None:
    """Nothing is guessed: a wrong word is named, with the right ones, and nothing changes."""
    await admin.buried("a")
    headers = {"Content-Type": "application/json"}
    answer = await admin.client.post(f"/api/orders/{name}", data=body, headers=headers)
    document = await answer.json()
    assert (answer.status, document["error"]["code"]) == (400, "bad_request")
    assert said in document["error"]["message"]
    assert (await states(admin.spool, "a"))[0] is DEAD


async def test_the_story_of_a_delivery_is_whole(admin: AskedSpoolAdmin) -> None:
    """Reason, advice, the other deliveries of its record, and how its document begins, with secrets masked."""
    secret = b'{"call_id": "a", "api_key": "hush"}'
    accepted = await admin.spool.accept(a_record("a", body=secret))
    await admin.spool.settle(accepted.ready[0], DeadLetter("HTTP 413: (5 bytes were sent; do)"))
    key = f"{accepted.uid}/whole/{ENDPOINT}"
    told = await (await admin.client.get(f"/api/deliveries/{key}")).json()
    assert (told["delivery"]["key"], told["record"]["stage"]) == (key, "dead")
    assert "when_too_large" in told["advice"]
    assert (told["preview"], told["preview_complete"]) == ('{"call_id": "a", "api_key": "***"}', True)


@pytest.mark.parametrize(("encoding", "compressed"), [("identity", False), ("gzip, zstd", True)])
async def test_what_a_delivery_carries_can_be_read(admin: AskedSpoolAdmin, encoding: str, compressed: bool) -> None:
    """The document is the one that would be sent, larger than one block too, as it is or as zstd."""
    letter = await admin.buried("a", rest=b'"rest": "' + b"x" * 3_000_000 + b'"')
    key = f"{letter.record.uid}/detail/{ENDPOINT}"
    headers = {"Accept-Encoding": encoding}
    async with admin.client.get(f"/api/documents/{key}", headers=headers, auto_decompress=False) as answer:
        body = await answer.read()
        assert (answer.status, answer.headers.get("Content-Encoding")) == (200, "zstd" if compressed else None)
    document = json.loads(decoded(body) if compressed else body)
    assert (document["call_id"], document["update_type"], len(document["rest"])) == (
        "a",
        "detailed_telemetry",
        3_000_000,
    )


async def test_a_delivery_that_is_not_there_is_404(admin: AskedSpoolAdmin) -> None:
    """A key of nothing, a call id, and what has ended are told from a failure."""
    letter = await admin.buried("a")
    await admin.order("discard", {"target": "a"})
    for key in ("1/2", "a", f"{letter.record.uid}/core/{ENDPOINT}", f"{letter.record.uid}/half/{ENDPOINT}"):
        for path in ("deliveries", "documents"):
            answer = await admin.client.get(f"/api/{path}/{key}")
            assert answer.status == (400 if "half" in key else 404)


async def test_a_damaged_payload_is_told(admin: AskedSpoolAdmin, tmp_path: Path) -> None:
    """What cannot be read is an answer with advice; its story is told without a preview."""
    letter = await admin.buried("a")
    await write(admin.spool, lambda transaction: transaction.execute("UPDATE chunks SET crc32 = crc32 + 1"))
    key = f"{letter.record.uid}/core/{ENDPOINT}"
    await (await admin.client.get(f"/api/documents/{key}")).read()  # what is fresh is in memory, once
    answer = await admin.client.get(f"/api/documents/{key}")
    assert answer.status == 200  # the glue before the damaged chunk had been sent
    with pytest.raises(ClientError):
        await answer.read()
    assert (await (await admin.client.get(f"/api/deliveries/{key}")).json())["preview"] is None


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("reroute", {}, "`to` names the destination"),
        ("replay", {"to": "other"}, "`to` names the destination"),
        ("reroute", {"to": "nobody"}, "no destination 'nobody': say one of endpoint"),
        ("replace-token", {}, "`token` is the new key"),
        ("discard", {"token": "hush"}, "`token` is the new key"),
        ("replace-token", {"token": "hush\n"}, "none that a header can carry"),
        ("replace-token", {"token": ""}, "none that a header can carry"),
    ],
)
async def test_an_order_says_what_it_needs_and_no_more(
    admin: AskedSpoolAdmin, name: str, fields: dict[str, str], said: str
) -> None:
    """What is missing or out of place is named, without the token."""
    answer = await admin.client.post(f"/api/orders/{name}", json={"select": {}, **fields})
    message = (await answer.json())["error"]["message"]
    assert (answer.status, said in message, "hush" in message) == (400, True, False)


async def test_what_is_queued_or_dead_is_rerouted(admin: AskedSpoolAdmin) -> None:
    """Unless told otherwise a reroute means both, and passes over what the other destination does not take."""
    await admin.buried("a")
    await admin.spool.accept(a_record("b"))
    assert (await admin.order("reroute", to="bucket", select={"target": "b"}, dry_run=True))["matched"] == 1
    step = await admin.order("reroute", to="other")
    assert (step["matched"], step["done"]) == (3, 3)
    assert [one["destination"] for one in (await admin.list(state="queued"))["deliveries"]] == ["other"] * 3


async def test_a_tenants_own_destination_is_given_nobody_elses_call_logs(admin: AskedSpoolAdmin) -> None:
    """An order passes them over, and says so before; so does the evacuation of a volume."""
    for tenant in ("acme", "other", "unassigned", None):
        await admin.spool.accept(a_record(f"of-{tenant}", tenant=tenant))
    outlook = await admin.order("reroute", to="of-acme", dry_run=True)
    assert (outlook["matched"], outlook["left_out"]) == (4, 3)
    step = await admin.order("reroute", to="of-acme")
    assert (step["matched"], step["done"]) == (4, 1)
    assert await admin.delivery_admin.move_all("of-acme") == 0
    there = (await admin.list(state="queued", destination="of-acme"))["deliveries"]
    assert [one["call_id"] for one in there] == ["of-acme"]


async def test_a_token_of_an_order_is_nowhere_to_be_seen(
    admin: AskedSpoolAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new key frees what was held for the old one; it is in no answer, no list, and no message."""
    accepted = await admin.spool.accept(a_record("a", token="refused"))
    await admin.spool.settle(accepted.ready[0], Hold("HTTP 401", accepted.ready[0].record.token_id))
    step = await admin.order("replace-token", token="hush-hush")
    assert (step["matched"], step["done"]) == (1, 1)
    assert await states(admin.spool, "a") == [READY]
    shown = await admin.list(state="queued")
    told = capsys.readouterr()
    assert "hush" not in f"{step}{shown}{told.out}{told.err}"
    assert "order" in f"{told.out}{told.err}"


async def test_what_is_due_later_is_tried_now(admin: AskedSpoolAdmin) -> None:
    """A retry is about what is queued; what a dispatcher has not paused stays held."""
    later, refused = [(await admin.spool.accept(a_record(name))).ready[0] for name in ("a", "b")]
    await admin.spool.settle(later, RetryAt(NOW + HOUR, "HTTP 500"))
    await admin.spool.settle(refused, Hold("HTTP 401", None))
    step = await admin.order("retry")
    assert (step["matched"], step["done"]) == (2, 1)
    assert [one.key for one in (await admin.spool.due(ENDPOINT, Lane.CORE, now=NOW, limit=9)).deliveries] == [later.key]

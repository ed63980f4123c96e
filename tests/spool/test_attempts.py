"""Tests of what is kept of attempts, and of the lists of calls."""

from pathlib import Path

import pytest
from msgspec.structs import replace as changed

from spool.queue import reader
from spool.queue.settle import ATTEMPTS_KEPT, LONGEST_ANSWER
from spool.records import DeadLetter, Delivered, Delivery, Hold, Outline, RetryAt, principal_of
from spool.stats import CallFilter, CallPage
from spool.store import Spool
from tests.spool.spool_parts import ENDPOINT, NOW, Clock, a_record, due, opened, replay


async def failed(spool: Spool, delivery: Delivery, answer: str) -> Delivery:
    """The delivery after an attempt that failed."""
    await spool.settle(delivery, RetryAt(NOW, answer), took=92)
    return (await due(spool))[0]


async def test_attempts_are_kept_with_their_answers(tmp_path: Path) -> None:
    """Each failure with its time, how long it took and the answer; then the success; through a restart."""
    async with opened(tmp_path) as spool:
        delivery = (await spool.accept(a_record("a"))).ready[0]
        delivery = await failed(spool, delivery, "HTTP 503: busy")
        await spool.settle(delivery, Delivered("s3://there"), took=5)
    async with opened(tmp_path) as spool:
        ((one,),) = [each.deliveries for each in await spool.trace("a")]
        assert [(each.number, each.took, each.outcome, each.answer) for each in one.history] == [
            (1, 92, "retry", "HTTP 503: busy"),
            (2, 5, "delivered", "s3://there"),
        ]
        assert one.location == "s3://there"


async def test_what_is_delivered_at_once_costs_no_row(tmp_path: Path) -> None:
    """The usual post writes nothing more than before."""
    async with opened(tmp_path) as spool:
        await spool.settle((await spool.accept(a_record("a"))).ready[0], Delivered(), took=5)
        ((one,),) = [each.deliveries for each in await spool.trace("a")]
        assert one.history == ()


async def test_of_many_attempts_the_first_and_the_latest_are_kept(tmp_path: Path) -> None:
    """Bounded in number and in length, whatever a destination answers."""
    async with opened(tmp_path) as spool:
        delivery = (await spool.accept(a_record("a"))).ready[0]
        for number in range(ATTEMPTS_KEPT + 15):
            delivery = await failed(spool, delivery, f"HTTP 500: {number}" + "x" * 1000)
        ((one,),) = [each.deliveries for each in await spool.trace("a")]
        numbers = [each.number for each in one.history]
        assert numbers == [1, *range(17, ATTEMPTS_KEPT + 16)]
        assert len(numbers) == ATTEMPTS_KEPT
        assert {len(each.answer) for each in one.history} == {LONGEST_ANSWER}


async def test_attempts_go_with_their_record(tmp_path: Path) -> None:
    """When a receipt is deleted, nothing of its attempts stays."""
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        delivery = await failed(spool, (await spool.accept(a_record("a"))).ready[0], "HTTP 503")
        await spool.settle(delivery, Delivered())
        clock.now += 48 * 3600 * 1000
        await spool._maintenance.round()
        assert await spool.trace("a") == ()
        assert await spool.reader.ask("SELECT count(*) FROM attempts") == [(0,)]


async def test_a_replay_is_no_attempt(tmp_path: Path) -> None:
    """What is kept of it shows in no history, and the attempts after it are counted on."""
    async with opened(tmp_path) as spool:
        delivery = (await spool.accept(a_record("a"))).ready[0]
        await spool.settle(delivery, DeadLetter("HTTP 400"), took=92)
        (delivery,) = await replay(spool, [delivery.key])
        await failed(spool, delivery, "HTTP 503")
        ((one,),) = [each.deliveries for each in await spool.trace("a")]
        assert [(each.number, each.outcome) for each in one.history] == [(1, "dead"), (2, "retry")]
        recent = await spool.recent_attempts(ENDPOINT, 10)
        assert sorted(each.attempt.number for each in recent) == [1, 2]


@pytest.mark.parametrize(
    ("settlement", "outcome"), [(Hold("HTTP 401", None), "held"), (DeadLetter("HTTP 400"), "dead")]
)
async def test_a_refusal_is_an_attempt_too(tmp_path: Path, settlement: Hold | DeadLetter, outcome: str) -> None:
    """What was refused at once has its answer as well."""
    async with opened(tmp_path) as spool:
        await spool.settle((await spool.accept(a_record("a"))).ready[0], settlement, took=7)
        ((one,),) = [each.deliveries for each in await spool.trace("a")]
        assert [(each.outcome, each.answer) for each in one.history] == [(outcome, settlement.error)]


# Lists of calls ----------------------------------------------------------------------------------------------------


def ids(page: CallPage) -> list[str]:
    return [row.record.call_id for row in page.rows]


async def test_calls_are_listed_the_newest_first_and_page_by_page(tmp_path: Path) -> None:
    """By keyset: each call once, with its newest record; the cursor leads through all of them."""
    async with opened(tmp_path) as spool:
        for number in range(7):
            await spool.accept(a_record(f"call-{number}", event="call_started"))
        await spool.accept(changed(a_record("call-2"), outline=Outline("+1 •••• 100", 66_000, "completed")))
        page = await spool.calls(CallFilter(), 3)
        assert ids(page) == ["call-2", "call-6", "call-5"]
        assert page.rows[0].outline == Outline("+1 •••• 100", 66_000, "completed")
        page = await spool.calls(CallFilter(after=page.older), 3)
        assert ids(page) == ["call-4", "call-3", "call-1"]
        page = await spool.calls(CallFilter(after=page.older), 3)
        assert (ids(page), page.older, page.searched_all) == (["call-0"], None, True)
        assert ids(await spool.calls(CallFilter(), 50)) == ["call-2", *(f"call-{n}" for n in (6, 5, 4, 3, 1, 0))]


async def test_calls_are_found_by_id_number_agent_state_and_time(tmp_path: Path) -> None:
    """Each filter alone, and of one tenant only that one's."""
    clock = Clock()
    async with opened(tmp_path, clock=clock) as spool:
        accepted = await spool.accept(changed(a_record("abcd-1"), agent_id="one", outline=Outline("+1 •••• 100")))
        await spool.settle(accepted.ready[0], Delivered())
        clock.now += 1000
        dead = await spool.accept(changed(a_record("abce-2"), agent_id="two", outline=Outline("+1 •••• 101")))
        await spool.settle(dead.ready[0], DeadLetter("400"))
        await spool.accept(
            changed(a_record("xyz", principal=principal_of("acme", None)), agent_id="two", tenant="acme")
        )
        found = {
            name: ids(await spool.calls(wanted, 10))
            for name, wanted in {
                "prefix": CallFilter(id_prefix="abc"), "long prefix": CallFilter(id_prefix="abcd-"),
                "number": CallFilter(number_end="101"), "agent": CallFilter(agent="one"),
                "waits": CallFilter(state="waits"), "dead": CallFilter(state="dead"), "sent": CallFilter(state="sent"),
                "before": CallFilter(before=NOW + 500), "tenant": CallFilter(tenant="acme"),
                "nobody": CallFilter(tenant="other"), "unstorable": CallFilter(id_prefix="\ud800abcd"),
            }.items()
        }  # fmt: skip
        assert found == {
            "prefix": ["abce-2", "abcd-1"], "long prefix": ["abcd-1"], "number": ["abce-2"], "agent": ["abcd-1"],
            "waits": ["xyz"], "dead": ["abce-2"], "sent": ["abcd-1"], "before": ["abcd-1"], "tenant": ["xyz"],
            "nobody": [], "unstorable": [],
        }  # fmt: skip
        assert await spool.agents(None) == ["one", "two"]
        assert ENDPOINT


async def test_the_newest_of_many_calls_that_begin_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the index of call ids has too many of them, those are listed that came last, and the others follow."""
    monkeypatch.setattr(reader, "MOST_BY_PREFIX", 3)
    async with opened(tmp_path) as spool:
        for number in range(6):
            await spool.accept(a_record(f"conv_{number}"))
        page = await spool.calls(CallFilter(id_prefix="conv_"), 4)
        assert ids(page) == ["conv_5", "conv_4", "conv_3", "conv_2"]
        assert ids(await spool.calls(CallFilter(id_prefix="conv_", after=page.older), 4)) == ["conv_1", "conv_0"]


async def test_an_empty_spool_has_no_calls(tmp_path: Path) -> None:
    """And says that there are no others."""
    async with opened(tmp_path) as spool:
        page = await spool.calls(CallFilter(), 10)
        assert (page.rows, page.older, page.searched_all) == ((), None, True)

"""The tables of a pipeline: queue, journal, results, callbacks; the same rules on every engine."""

import asyncio

import pytest

from tests.pipeline.queued import TURNS, done, new
from tests.pipeline.runner_stage import NOW
from tests.spool.spool_parts import Clock
from tests.stores.engines import SqlEngine
from uploaders.stores.pipeline import (
    CallbackState,
    CallbackTables,
    CallText,
    Insight,
    JobState,
    NewCallback,
    Redo,
    Step,
    StepOutput,
    TextQuery,
)
from uploaders.stores.pipeline_tables import LEASE_MILLISECONDS, PipelineTables
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import StoreError

MADE = StepOutput(b"hash", b"output", "model")


async def test_a_call_is_queued_until_nothing_new_is_said_of_it(tables: PipelineTables) -> None:
    """The same call again is not queued again; one of which more is said is, with all that is known of it."""
    assert await tables.enqueue([new("c"), new("d")]) == 2
    assert await tables.enqueue([new("c")]) == 0
    (job,) = await tables.claim("", "me", 1)
    await tables.finish(job, "me", Insight("a summary", "llm"))
    assert await tables.enqueue([new("c", CallText(agent_id="a1"), NOW + 5)]) == 0
    assert await tables.enqueue([new("c", CallText(provider_summary="It hurts."), NOW + 6)]) == 1
    jobs = {each.call_id: each for each in await tables.claim("", "me", 9)}
    assert jobs["c"].text.turns == TURNS
    assert jobs["c"].text.provider_summary == "It hurts."


async def test_the_order_in_which_parts_come_does_not_matter(tables: PipelineTables) -> None:
    """What came last wins where both say something, whichever is queued first."""
    older, newer = CallText(TURNS, number="1"), CallText((("caller", "later words"),), agent_id="a")
    for project, order in (("x", [(older, 1), (newer, 2)]), ("y", [(newer, 2), (older, 1)])):
        for text, at in order:
            await tables.enqueue([new("c", text, at, project)])
    texts = [(await tables.claim(project, "me", 1))[0].text for project in ("x", "y")]
    assert texts[0] == texts[1]
    assert texts[0].turns == newer.turns
    assert texts[0].number == "1"


async def test_a_claim_is_its_owners_until_its_lease_ends(tables: PipelineTables, clock: Clock) -> None:
    """Nobody else gets what is claimed; a lease that is not renewed, or given back, is free."""
    await tables.enqueue([new("c"), new("d")])
    assert len(await tables.claim("", "me", 10)) == 2
    assert await tables.waiting() == []
    clock.now += LEASE_MILLISECONDS - 1
    await tables.renew("me")
    clock.now += LEASE_MILLISECONDS - 1
    assert await tables.claim("", "other", 10) == []
    clock.now += 2
    assert await tables.waiting() == [""]
    assert len(await tables.claim("", "other", 1)) == 1
    await tables.release("me")
    assert len(await tables.claim("", "third", 10)) == 1


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_no_text_of_a_finished_call_is_read_for_the_queue(tables: PipelineTables, engine: SqlEngine) -> None:
    """Jobs are kept, each with a text that lies before what is asked for: their number must not matter."""
    store = tables._database
    assert isinstance(store, SqliteStore)
    asked: list[str] = []
    for connection in (store._writing._connection, store._reading._connection):
        assert connection is not None
        connection.set_trace_callback(asked.append)
    await tables.renew("me")
    await tables.release("me")
    await tables.queued()
    await tables.status()
    plans = [
        row[-1]
        for statement in asked if "pipeline_jobs" in statement
        for row in engine.rows(f"EXPLAIN QUERY PLAN {statement}")
    ]  # fmt: skip
    of_jobs = [plan for plan in plans if "pipeline_jobs" in plan]
    assert len(of_jobs) == 6
    assert all("INDEX pipeline_jobs_" in plan for plan in of_jobs)


async def test_several_share_a_queue(tables: PipelineTables, engine: SqlEngine, clock: Clock) -> None:
    """Each call is claimed by one of those that ask at once."""
    await tables.enqueue([new(f"c{number}") for number in range(40)])
    stores = [engine.store() for _ in range(3)]
    others = [PipelineTables(store, clock) for store in stores]
    shares = await asyncio.gather(*[each.claim("", f"o{index}", 20) for index, each in enumerate(others)])
    more = [await each.claim("", f"o{index}", 40) for index, each in enumerate(others)]
    names = [job.call_id for share in (*shares, *more) for job in share]
    assert sorted(names) == sorted(f"c{number}" for number in range(40))
    for store in stores:
        await store.close()


async def test_every_tenant_that_has_something_due_is_named(tables: PipelineTables, clock: Clock) -> None:
    """However much the others have, and not before its time."""
    await tables.enqueue([new(f"c{number}", project="big") for number in range(50)])
    await tables.enqueue([new("c1", project="small"), new("c1", project="later")])
    (job,) = await tables.claim("later", "me", 1)
    await tables.postpone(job, "me", clock.now + 1000, "not now")
    assert sorted(await tables.waiting()) == ["big", "small"]
    clock.now += 1000
    assert sorted(await tables.waiting()) == ["big", "later", "small"]
    (again,) = await tables.claim("later", "me", 1)
    assert again.attempts == 1


async def test_the_journal_keeps_what_a_step_made_and_what_it_cost(tables: PipelineTables, clock: Clock) -> None:
    """An answer that nobody heard is known; useless ones are counted; a finished step is kept."""
    await tables.enqueue([new("c")])
    (job,) = await tables.claim("", "me", 1)
    await tables.asking(job)
    await tables.release("me")
    (job,) = await tables.claim("", "me", 1)
    assert job.asking
    assert [await tables.heard(job, tokens=15) for _ in range(2)] == [1, 2]
    await tables.asking(job)
    await tables.record(job, Step.SUMMARY, MADE, tokens=70)
    await tables.release("me")
    (job,) = await tables.claim("", "me", 1)
    assert (job.asking, job.bad_answers) == (False, 0)
    assert await tables.spent_today("") == 3
    await tables.finish(job, "me", Insight("s", "llm"))
    assert await tables.step(job.key, Step.SUMMARY) == MADE
    clock.now += 24 * 3600 * 1000
    assert await tables.spent_today("") == 0


async def test_what_changed_while_it_was_worked_on_is_worked_on_again(tables: PipelineTables) -> None:
    """Who finishes an older state of a call does not end its job."""
    await tables.enqueue([new("c")])
    (job,) = await tables.claim("", "me", 1)
    await tables.enqueue([new("c", CallText((("caller", "something else"),)), NOW + 1)])
    await tables.finish(job, "me", Insight("of the older words", "llm"))
    assert (await tables.status()).jobs == {JobState.QUEUED: 1}
    (job,) = await tables.claim("", "me", 1)
    assert job.text.turns == (("caller", "something else"),)


async def test_who_finishes_late_overwrites_nothing(tables: PipelineTables, callbacks: CallbackTables) -> None:
    """Whoever stood still, or had to wait for a model, writes nothing over what was made of newer words."""
    wanted = NewCallback(NOW + 5, "UTC", "tomorrow", "+1555")
    await tables.enqueue([new("c")])
    (older,) = await tables.claim("", "slow", 1)
    await tables.enqueue([new("c", CallText(provider_summary="No crown after all."), NOW + 1)])
    assert not await tables.holds(older, "slow")
    (newer,) = await tables.claim("", "other", 1)
    assert await tables.holds(newer, "other")
    assert await tables.finish(newer, "other", Insight("No crown after all.", "provider"))
    assert not await tables.finish(older, "slow", Insight("A crown, tomorrow.", "llm", None, wanted), MADE)
    assert (await tables.insights("", ["c"]))["c"].summary == "No crown after all."
    assert await callbacks.find() == []
    assert await tables.step(("", "c"), Step.EMBEDDING) is None


async def test_an_erased_call_does_not_come_back(
    tables: PipelineTables, callbacks: CallbackTables, engine: SqlEngine
) -> None:
    """Whoever worked on it when it was erased writes nothing of it any more; what it paid is counted."""
    await tables.enqueue([new("c")])
    (job,) = await tables.claim("", "me", 1)
    await tables.record(job, Step.SUMMARY, MADE, tokens=1)
    assert await tables.forget_call("", "c")
    await tables.record(job, Step.EMBEDDING, MADE, tokens=1)
    wanted = Insight("toothache", "llm", None, NewCallback(NOW + 5, "UTC", "tomorrow", "+1555"))
    assert not await tables.finish(job, "me", wanted)
    assert not await tables.is_known(job)
    assert await tables.insights("", ["c"]) == {}
    assert await callbacks.find() == []
    assert engine.rows("select count(*) from pipeline_steps") == [(0,)]
    assert await tables.spent_today("") == 2


async def test_of_what_may_not_be_kept_nothing_is_left(
    tables: PipelineTables, callbacks: CallbackTables, engine: SqlEngine
) -> None:
    """A provider may say so after a call was worked on; the reason stays, and other calls do."""
    wanted = Insight("toothache", "llm", None, NewCallback(NOW + 5, "UTC", "tomorrow", "+1555"))
    for call_id in ("c", "other"):
        await tables.enqueue([new(call_id)])
        (job,) = await tables.claim("", "me", 1)
        await tables.record(job, Step.SUMMARY, MADE)
        await tables.finish(job, "me", wanted)
    await tables.enqueue([new("c", CallText(opted_out=True), NOW + 1)])
    (job,) = await tables.claim("", "me", 9)
    assert job.text == CallText(opted_out=True, agent_id="a1")
    assert not await tables.withdraw(job, "other")
    assert await tables.withdraw(job, "me")
    await tables.end(job, "me", JobState.SKIPPED, "nothing may be kept")
    assert [each.call_id for each in await tables.search(TextQuery(words="toothache"))] == ["other"]
    assert [each.call_id for each in await callbacks.find()] == ["other"]
    assert engine.rows("select call_id from pipeline_steps") == [("other",)]
    assert (await tables.status()).reasons == {"nothing may be kept": 1}


async def test_writes_at_once_are_kept_apart(tables: PipelineTables, engine: SqlEngine) -> None:
    """Those that share a transaction: what one of them does wrong, the others do not suffer from."""
    store = engine.store()
    insert = "INSERT INTO do_not_call (project, number, since) VALUES (:project, :number, 1)"
    rows = [[(insert, {"project": "p", "number": "same" if number < 3 else str(number)})] for number in range(12)]
    results = await asyncio.gather(*[store.run(each) for each in rows], return_exceptions=True)
    assert sum(isinstance(each, StoreError) for each in results) == 2
    assert engine.rows("select count(*) from do_not_call") == [(10,)]
    await store.close()


async def test_calls_are_found_by_words_number_agent_and_time(tables: PipelineTables) -> None:
    """All of the words, in summary or transcript, of one tenant; newest first; a newer summary replaces them."""
    await done(tables, "c1", Insight("about a crown", "llm", "negative"))
    await done(tables, "c2", Insight("about pizza", "llm"), CallText((("caller", "two pizzas"),), started_at=NOW + 9))
    await done(tables, "c1", Insight("of another tenant: toothache", "llm"), project="other")

    async def found(query: TextQuery) -> list[str]:
        return [each.call_id for each in await tables.search(query)]

    assert await found(TextQuery(words="toothache Tuesday")) == ["c1"]
    assert await found(TextQuery(words="CROWN")) == ["c1"]
    assert await found(TextQuery(words="toothache pizza")) == []
    assert await found(TextQuery()) == ["c2", "c1"]
    assert await found(TextQuery(customer_number="+1555", agent_id="a1")) == ["c1"]
    assert await found(TextQuery(since=NOW + 1)) == ["c2"]
    assert await found(TextQuery(until=NOW + 1)) == ["c1"]
    assert await found(TextQuery(words='" * :')) == ["c2", "c1"]
    assert [each.summary for each in await tables.search(TextQuery("other", "toothache"))] == [
        "of another tenant: toothache"
    ]
    await tables.redo(Redo(project=""), dry_run=False)
    for job in await tables.claim("", "me", 9):
        await tables.finish(job, "me", Insight("about taxes", "llm"))
    assert await found(TextQuery(words="crown")) == []
    assert sorted(await found(TextQuery(words="taxes"))) == ["c1", "c2"]


async def test_addresses_and_numbers_are_found_by_their_words(tables: PipelineTables) -> None:
    """Whole, and by what stands between dots, dashes and signs; on every engine the same."""
    said = "write to jo.doe@example.com, see https://x.example/a-b, or call 555-1234 (3.5 minutes), re-book foo_bar"
    await done(tables, "c", Insight(said, "llm"))
    for words in (
        "jo.doe@example.com", "example", "doe", "https://x.example/a-b", "555-1234", "1234", "3.5", "re-book", "book",
        "foo_bar", "bar",
    ):  # fmt: skip
        assert [each.call_id for each in await tables.search(TextQuery(words=words))] == ["c"], words
    assert await tables.search(TextQuery(words="jo.doe@example.org")) == []


async def test_redo_queues_what_it_selects_and_forgets_its_steps(tables: PipelineTables) -> None:
    """A dry run changes nothing; `embedding` keeps summaries."""
    for name, source in (("c1", "extractive"), ("c2", "llm")):
        await tables.enqueue([new(name)])
        (job,) = await tables.claim("", "me", 1)
        await tables.record(job, Step.SUMMARY, MADE)
        await tables.record(job, Step.EMBEDDING, MADE)
        await tables.finish(job, "me", Insight("s", source))
    assert await tables.redo(Redo(source="extractive"), dry_run=True) == {"": 1}
    assert (await tables.status()).jobs == {JobState.DONE: 2}
    assert await tables.redo(Redo(Step.EMBEDDING, source="extractive"), dry_run=False) == {"": 1}
    assert await tables.step(("", "c1"), Step.SUMMARY) == MADE
    assert await tables.step(("", "c1"), Step.EMBEDDING) is None
    assert await tables.redo(Redo(project="nobody"), dry_run=False) == {}
    assert await tables.redo(Redo(since=NOW), dry_run=False) == {"": 1}
    assert await tables.step(("", "c2"), Step.SUMMARY) is None
    assert (await tables.status()).jobs == {JobState.QUEUED: 2}


async def test_an_erased_call_leaves_nothing(tables: PipelineTables, callbacks: CallbackTables) -> None:
    """Job, journal, insight, words and callback go; those of the same id of another tenant stay."""
    wanted = Insight("toothache", "llm", None, NewCallback(NOW + 5, "UTC", "tomorrow", "+1555"))
    for project in ("", "other"):
        await done(tables, "c", wanted, project=project)
    assert await tables.forget_call("", "c")
    assert not await tables.forget_call("", "c")
    assert await tables.search(TextQuery("", "toothache")) == []
    assert [each.project for each in await callbacks.find()] == ["other"]
    assert len(await tables.search(TextQuery("other", "toothache"))) == 1


async def test_a_callback_waits_is_claimed_and_ends_once(
    tables: PipelineTables, callbacks: CallbackTables, clock: Clock
) -> None:
    """Not before its time, by one at a time; a further summary moves it only as long as it waits."""
    await done(tables, "c", Insight("s", "llm", None, NewCallback(NOW + 1000, "UTC", "soon", "+1555")))
    assert await callbacks.claim("me", 10) == []
    clock.now += 1000
    (due,) = await callbacks.claim("me", 10)
    assert (due.call_id, due.number, due.agent_id, due.words) == ("c", "+1555", "a1", "soon")
    assert await callbacks.claim("other", 10) == []
    assert len(await callbacks.claim("me", 10)) == 1
    await callbacks.fired(due, "record-1")
    await tables.redo(Redo(), dry_run=False)
    for job in await tables.claim("", "me", 9):
        await tables.finish(job, "me", Insight("s", "llm", None, NewCallback(NOW + 9999, "UTC", "later", "+1555")))
    (after,) = await callbacks.find()
    assert (after.state, after.due_at, after.record_uid) == ("fired", NOW + 1000, "record-1")
    assert await callbacks.fired_since("", "+1555", NOW) == 1
    assert not await callbacks.cancel("", "c", "too late")


async def test_callbacks_can_be_cancelled_hastened_and_forbidden(
    tables: PipelineTables, callbacks: CallbackTables
) -> None:
    """A number on the list of no tenant may be called by none."""
    for name in ("c1", "c2"):
        await done(tables, name, Insight("s", "llm", None, NewCallback(NOW + 10**9, "UTC", "soon", "+1555")))
    assert await callbacks.cancel("", "c1", "by an operator")
    assert await callbacks.hasten("", "c2")
    assert [each.call_id for each in await callbacks.claim("me", 10)] == ["c2"]
    assert [(each.call_id, each.reason) for each in await callbacks.find(state="cancelled")] == [
        ("c1", "by an operator")
    ]
    assert await callbacks.reopen("", "c1")
    assert not await callbacks.reopen("", "c1")
    assert await callbacks.cancel("", "c1", "by hand", CallbackState.DONE)
    assert [each.state for each in await callbacks.find() if each.call_id == "c1"] == ["done"]
    assert await callbacks.reopen("", "c1")
    (waits,) = [each for each in await callbacks.find(state="waiting") if each.call_id == "c1"]
    assert (waits.due_at, waits.reason) == (NOW + 10**9, None)
    await callbacks.block_number("", "+1555", blocked=True)
    assert await callbacks.may_not_call("any", "+1555")
    await callbacks.block_number("", "+1555", blocked=False)
    await callbacks.block_number("any", "+1555", blocked=True)
    assert await callbacks.may_not_call("any", "+1555")
    assert not await callbacks.may_not_call("", "+1555")

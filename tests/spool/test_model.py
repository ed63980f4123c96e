"""The spool against its model: random posts, attempts, orders, crashes and restarts; both agree on all of it."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from spool.admin.query import AdminResult, place_of
from spool.db import write_connection
from spool.db.write_connection import WritePoint
from spool.fsck import Severity, check
from spool.records import (
    Accepted,
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    Form,
    Fragment,
    Hold,
    Lane,
    NewDelivery,
    Redirect,
    RetryAt,
    Settlement,
)
from spool.store import Spool, SpoolOptions
from tests.budget import budgeted
from tests.spool.model import Kept, Model
from tests.spool.spool_parts import (
    BUCKET,
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    NOTICE,
    OBJECT,
    WHOLE,
    Clock,
    Commits,
    a_record,
    decoded,
    maintained,
    rows,
    without_maintenance,
)


class Camera:
    """What a kill would leave: copies a spool's directory whenever the writer reaches a point; the last copy counts.

    The copying is another process's work: this one must not open and close a database that SQLite has open.
    """

    def __init__(self) -> None:
        self.pictures = 0

    @contextmanager
    def armed(self, point: WritePoint, source: Path, target: Path) -> Iterator[None]:
        """Within the block, keep in `target` how `source` looked at `point`."""
        self.pictures = 0

        def picture(reached: WritePoint, _group: Sequence[object]) -> None:
            if reached is point:
                subprocess.run(["cp", "-r", "--no-target-directory", str(source), str(target)], check=True)
                self.pictures += 1

        write_connection.hook = picture
        try:
            yield
        finally:
            write_connection.hook = None


T = TypeVar("T")
CALLS = ("a", "b")
LARGE_WHOLE = NewDelivery(ENDPOINT, Form.WHOLE, Lane.DETAIL)
REDUCED = NewDelivery(ENDPOINT, Form.REDUCED, Lane.DETAIL)
PLANS = ((WHOLE,), (CORE, DETAIL), (CORE, OBJECT, NOTICE), (OBJECT,), (LARGE_WHOLE,))
DIVERSIONS = ((OBJECT, NOTICE), (REDUCED,), (LARGE_WHOLE,))
TOKENS = ("t", "u")
DESTINATIONS = (ENDPOINT, BUCKET)
FILES = frozenset({Form.WHOLE, Form.CORE, Form.DETAIL})
TAKES = {ENDPOINT: (FILES | {Form.NOTICE, Form.REDUCED}, True), BUCKET: (FILES, False)}
"""What can be rerouted to a destination, and whether it gets that in the order of the calls."""
ORDERS = ("replay", "discard", "retry", "replace_token", "reroute")
FOR_EVER = 1000 * HOUR
EXPIRE_AFTER = 5 * HOUR
LARGE = 5 << 20

crashes = st.sampled_from([None, None, None, WritePoint.BEGUN, WritePoint.WRITTEN, WritePoint.COMMITTED])
some = st.integers(0, 30)
choices = st.integers(0, 1)
camera = Camera()


class SpoolMachine(RuleBasedStateMachine):
    """Whatever is done to the spool is done to the model."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.clock, self.model, self.runs = Clock(), Model(), 0
        self.directory = self.root / "0"
        self.attempted: dict[DeliveryKey, Delivery] = {}
        """Whatever was ever handed out: an attempt may end after an order, or a restart."""
        self.tokens: dict[DeliveryKey, str | None] = {}
        """The token that each of them was handed out with."""
        self.run(self.open())

    def teardown(self) -> None:
        try:
            try:
                self.maintain()
                self.run(self.payloads_are_there())
                self.run(maintained(self.spool))
                self.books_are_right()
            finally:
                self.run(self.spool.close())  # the threads of an open one would keep a failed run from ending
            assert [one for one in check(self.directory) if one.severity is not Severity.NOTE] == []
        finally:
            self.loop.close()
            shutil.rmtree(self.root)

    def run(self, work: Awaitable[T]) -> T:
        async def within() -> T:
            async with asyncio.timeout(60):
                return await work

        return self.loop.run_until_complete(within())

    async def open(self) -> None:
        options = SpoolOptions(
            self.directory, duplicate_window=FOR_EVER, receipts_keep=FOR_EVER, expire_after=EXPIRE_AFTER
        )
        self.spool = await Spool.open(options, DESTINATIONS, self.clock, Commits())
        await without_maintenance(self.spool)

    def write(self, crash: WritePoint | None, work: Callable[[], Awaitable[T]], became: Callable[[T], None]) -> None:
        """Do it to the spool. `became` does it to the model, unless a crash came before it was durable."""
        self.runs += 1
        image = self.root / str(self.runs)
        if crash is None:
            became(self.run(work()))
            return
        with camera.armed(crash, self.directory, image):
            result = self.run(work())
        if crash is WritePoint.COMMITTED or not camera.pictures:
            became(result)
        if camera.pictures:
            self.run(self.spool.close())
            shutil.rmtree(self.directory)
            self.directory = image
            self.run(self.open())

    # What agents do

    @rule(
        call_id=st.sampled_from(CALLS), plan=st.sampled_from(PLANS), token=st.sampled_from((None, *TOKENS)),
        event=st.sampled_from(["call_started", "call_ended"]), large=st.integers(0, 12).map(lambda one: one == 0),
        crash=crashes,
    )  # fmt: skip
    def post(
        self, call_id: str, plan: tuple[NewDelivery, ...], token: str | None, event: str, large: bool,
        crash: WritePoint | None,
    ) -> None:  # fmt: skip
        body = os.urandom(LARGE if large else 8 + len(self.model.records))
        self.accept(call_id, event, os.urandom(32), body, plan, token, crash)

    @precondition(lambda self: self.model.records)
    @rule(which=some, crash=crashes)
    def post_again(self, which: int, crash: WritePoint | None) -> None:
        old = self.model.records[which % len(self.model.records)]
        self.accept(old.call_id, old.event, old.digest, old.body, (WHOLE,), old.token, crash)

    def accept(
        self, call_id: str, event: str, digest: bytes, body: bytes, plan: tuple[NewDelivery, ...], token: str | None,
        crash: WritePoint | None,
    ) -> None:  # fmt: skip
        new = a_record(
            call_id, *plan, body=body, event=event, digest=digest, token=token,
            superseded_by="call_ended" if event == "call_started" else None,
        )  # fmt: skip
        original = self.model.original_of(call_id, event, digest)
        superseded = event == "call_started" and any(
            (one.call_id, one.event) == (call_id, "call_ended") for one in self.model.records
        )
        record = Kept(
            len(self.model.records) + 1, call_id, event, digest, token, self.clock.now, body, superseded
        )  # fmt: skip

        def became(accepted: Accepted) -> None:
            assert accepted.duplicate is (original is not None)
            if original is None:
                assert accepted.superseded is superseded
                self.model.accept(record, plan, self.clock.now)
            self.handed_out(accepted.ready)

        self.write(crash, lambda: self.spool.accept(new), became)

    # What destinations do

    def handed_out(self, deliveries: tuple[Delivery, ...]) -> None:
        """Whatever the spool hands out may be sent, by the model too."""
        for delivery in deliveries:
            one = self.model.find(delivery.key)
            assert one is not None
            assert one.state is DeliveryState.READY
            self.attempted[delivery.key] = delivery
            self.tokens[delivery.key] = self.model.records[delivery.record.record_id - 1].token

    def settle(self, which: int, crash: WritePoint | None, settlement: Callable[[Delivery], Settlement]) -> None:
        delivery = list(self.attempted.values())[which % len(self.attempted)]
        done, token = settlement(delivery), self.tokens[delivery.key]

        def became(freed: tuple[Delivery, ...]) -> None:
            before = self.model.find(delivery.key)
            place = (delivery.destination, delivery.lane)
            self.model.settle(delivery.key, done, token, self.clock.now)
            if before is not None and self.model.find(delivery.key) is not before:
                self.model.moved_on.append(place)
            self.handed_out(freed)

        self.write(crash, lambda: self.spool.settle(delivery, done), became)

    @precondition(lambda self: self.attempted)
    @rule(which=some, crash=crashes)
    def deliver(self, which: int, crash: WritePoint | None) -> None:
        self.settle(which, crash, lambda _: Delivered("somewhere"))

    @precondition(lambda self: self.attempted)
    @rule(which=some, crash=crashes, kind=st.integers(0, 3))
    def fail(self, which: int, crash: WritePoint | None, kind: int) -> None:
        later = self.clock.now + HOUR
        kinds: tuple[Callable[[Delivery], Settlement], ...] = (
            lambda _: RetryAt(later, "500"),
            lambda _: RetryAt(later, "503", counted=False),
            lambda delivery: Hold("401", delivery.record.token_id),
            lambda _: DeadLetter("400"),
        )
        self.settle(which, crash, kinds[kind])

    @precondition(lambda self: any(key.form is Form.DETAIL for key in self.attempted))
    @rule(which=some, crash=crashes, to=st.sampled_from(DIVERSIONS), keep=st.booleans())
    def move_on(self, which: int, crash: WritePoint | None, to: tuple[NewDelivery, ...], keep: bool) -> None:
        details = [key for key in self.attempted if key.form is Form.DETAIL and key.destination == ENDPOINT]
        if details:
            chosen = list(self.attempted).index(details[which % len(details)])
            self.settle(chosen, crash, lambda _: Redirect("413", to, keep))

    # What operators and time do

    @precondition(lambda self: any(record.owed for record in self.model.records))
    @rule(chosen=st.lists(some, min_size=1, max_size=3), crash=crashes, what=st.sampled_from(ORDERS), to=choices)
    def order(self, chosen: list[int], crash: WritePoint | None, what: str, to: int) -> None:
        known = [
            DeliveryKey(record.number, one.plan.destination, one.plan.form) for record, one in self.model.each()
        ]  # fmt: skip
        keys = sorted({known[one % len(known)] for one in chosen}, key=place_of)
        order, now = self.spool.admin, self.clock.now
        destination, token = DESTINATIONS[to], TOKENS[to]
        forms, ordered = TAKES[destination]

        def discarded() -> None:
            those = [one for key in keys if (one := self.model.find(key)) is not None and not one.state.ended]
            self.model.give_up(those, DeliveryState.DISCARDED)

        given: dict[str, tuple[Callable[[], Awaitable[AdminResult]], Callable[[], None]]] = {
            "replay": (lambda: order.replay(keys), lambda: self.model.replay(keys, now)),
            "discard": (lambda: order.discard(keys), discarded),
            "retry": (lambda: order.retry(keys), lambda: self.model.retry(keys, now)),
            "replace_token": (
                lambda: order.replace_token(keys, token),
                lambda: self.model.replace_token(keys, token, now),
            ),
            "reroute": (
                lambda: order.reroute(keys, destination, forms=forms, ordered=ordered),
                lambda: self.model.reroute(keys, destination, forms, now, ordered=ordered),
            ),
        }
        work, in_the_model = given[what]

        def became(done: AdminResult) -> None:
            in_the_model()
            self.handed_out(done.ready)

        self.write(crash, work, became)

    @rule(destination=st.sampled_from(DESTINATIONS), held_for=st.sampled_from(["shared", "t", "u"]), crash=crashes)
    def release(self, destination: str, held_for: str, crash: WritePoint | None) -> None:
        token_ids = {one.record.token_id for one in self.attempted.values()} - {None}
        of_token = {self.run(self.spool.token(one)): one for one in token_ids if one is not None}
        if held_for != "shared" and held_for not in of_token:
            return
        token_id = None if held_for == "shared" else of_token[held_for]

        def became(freed: tuple[Delivery, ...]) -> None:
            self.model.release(destination, held_for)
            self.handed_out(freed)

        self.write(crash, lambda: self.spool.release(destination, token_id), became)

    @rule(hours=st.integers(1, 4))
    def time_passes(self, hours: int) -> None:
        self.clock.now += hours * HOUR
        self.maintain()

    def maintain(self) -> None:
        """What is too old expires."""
        self.run(maintained(self.spool))
        self.model.expire(self.clock.now - EXPIRE_AFTER)

    @rule()
    def restart(self) -> None:
        self.run(self.spool.close())
        self.run(self.open())

    # What must hold

    @invariant()
    def places_are_right(self) -> None:
        """Every acknowledged record is where the model has it, and what is due is what may be sent, in order."""
        for call_id in CALLS:
            found = [
                {(one.destination, one.form): (one.state, one.attempts) for one in record.deliveries}
                for record in self.run(self.spool.trace(call_id))
            ]
            assert found == [
                {(one.plan.destination, one.plan.form): (one.state, one.attempts) for one in record.owed}
                for record in self.model.records
                if record.call_id == call_id
            ]
        for destination in DESTINATIONS:
            for lane in Lane:
                page = self.run(self.spool.due(destination, lane, now=self.clock.now, limit=1000)).deliveries
                assert [(one.record.record_id, one.form) for one in page] == self.due_by_the_model(destination, lane)
                self.handed_out(page)

    def due_by_the_model(self, destination: str, lane: Lane) -> list[tuple[int, Form]]:
        due = [
            (record.number, one.plan.form)
            for record, one in self.model.each()
            if (one.plan.destination, one.plan.lane, one.state) == (destination, lane, DeliveryState.READY)
            and one.due_at <= self.clock.now
        ]
        return sorted(due)

    @invariant()
    def books_are_right(self) -> None:
        """The counters are what the model counts."""
        lanes = {key: counts for key, counts in self.spool.stats().lanes.items() if counts.owed}
        assert lanes == {key: counts for key, counts in self.model.counts().items() if counts.owed}

    async def payloads_are_there(self) -> None:
        """Whatever has not ended can be read, and is what was posted; of the rest nothing is left but receipts."""
        tokens = set()
        for call_id in CALLS:
            kept = [record for record in self.model.records if record.call_id == call_id]
            for record, traced in zip(kept, await self.spool.trace(call_id), strict=True):
                if record.over:
                    continue
                tokens.add(record.token)
                frames = [frame async for frame in self.spool.frames(traced.record, Fragment.BODY)]
                assert decoded(b"".join(frames)) == record.body
        assert rows(self.directory, "SELECT count(*) FROM tokens WHERE uses > 0") == [(len(tokens - {None}),)]
        open_chunks = sum(-(-len(record.body) // (1 << 20)) for record in self.model.records if not record.over)
        assert rows(self.directory, "SELECT count(*) FROM chunks") == [(open_chunks,)]
        assert self.spool.stats().unaccounted == 0


CHECKS = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


@pytest.mark.slow
def test_the_spool_does_what_its_model_does() -> None:
    """Some runs of the model; `make prove` has many."""
    sized = settings(max_examples=5, stateful_step_count=30, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(SpoolMachine, settings=sized)


@pytest.mark.parametrize("hours", [5, 6])
@pytest.mark.parametrize("what", ["replay", "reroute"])
def test_what_is_ordered_anew_has_its_whole_time_again(what: str, hours: int) -> None:
    """A dead letter that is put back after its time expires, with its token, only when that has passed once more."""
    machine = SpoolMachine()
    machine.begin()
    try:
        machine.post("a", (WHOLE,), token="t", event="call_ended", large=False, crash=None)
        machine.fail(which=0, crash=None, kind=3)  # a dead letter
        machine.time_passes(hours=6)
        machine.order(chosen=[0], crash=None, what=what, to=1)
        machine.fail(which=-1, crash=None, kind=0)  # tried again later
        machine.time_passes(hours=hours)
        machine.places_are_right()
        ((_, one),) = machine.model.each()
        assert one.state is (DeliveryState.READY if hours == 5 else DeliveryState.EXPIRED)
    finally:
        machine.teardown()


@pytest.mark.prove
def test_the_spool_does_what_its_model_does_for_long() -> None:
    """Many more and longer runs of the same."""
    examples = budgeted(small=10, full=400)
    sized = settings(max_examples=examples, stateful_step_count=60, deadline=None, suppress_health_check=CHECKS)
    run_state_machine_as_test(SpoolMachine, settings=sized)

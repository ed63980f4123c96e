"""Where what is refused as too large goes on: the decision, and the dispatcher that acts on it."""

from dataclasses import replace

import msgspec
import pytest

from spool.records import DeadLetter, Form, Fragment, Lane, NewDelivery, Redirect
from tests.uploaders.deliveries import a_delivery, a_record, large_fragments
from tests.uploaders.dispatcher_stage import CORE, DETAIL, a_stage
from tests.uploaders.fake_time import turns
from tests.uploaders.queue_conformance import a_post
from uploaders.base import Delivered, Refused, Scope
from uploaders.dispatch.policy import FallbackStep, next_fallback, reduced, settle_too_large, to_bucket, upload

UPLOAD, BUCKET, REDUCED = upload("endpoint"), to_bucket("endpoint", "bucket"), reduced("endpoint")

TWO_PHASE = a_record(fragments=large_fragments())
SINGLE = a_record(fragments={Fragment.BODY: b"{}"})


@pytest.mark.parametrize(
    ("fallbacks", "form", "lane", "expected"),
    [
        ((), Form.DETAIL, Lane.DETAIL, None),
        ((UPLOAD, REDUCED), Form.DETAIL, Lane.DETAIL, UPLOAD),
        ((UPLOAD, REDUCED), Form.WHOLE, Lane.DETAIL, REDUCED),
        ((UPLOAD, REDUCED), Form.REDUCED, Lane.DETAIL, None),
        ((UPLOAD, BUCKET), Form.WHOLE, Lane.DETAIL, BUCKET),
        ((REDUCED,), Form.DETAIL, Lane.DETAIL, REDUCED),
        ((BUCKET,), Form.DETAIL, Lane.DETAIL, BUCKET),
        ((UPLOAD,), Form.REDUCED, Lane.DETAIL, UPLOAD),
        ((UPLOAD,), Form.WHOLE, Lane.DETAIL, None),
        ((UPLOAD, BUCKET, REDUCED), Form.CORE, Lane.CORE, None),
        ((UPLOAD, BUCKET, REDUCED), Form.NOTICE, Lane.CORE, None),
    ],
)
def test_each_refusal_leads_one_step_on(
    fallbacks: tuple[FallbackStep, ...], form: Form, lane: Lane, expected: FallbackStep | None
) -> None:
    """The step behind the one that was refused; cores and notices have nowhere to go."""
    assert next_fallback(fallbacks, a_delivery(TWO_PHASE, form, lane=lane)) is expected


@pytest.mark.parametrize(
    ("fallbacks", "lane", "expected"),
    [
        ((UPLOAD, REDUCED), Lane.CORE, UPLOAD),
        ((UPLOAD, REDUCED), Lane.DETAIL, None),
        ((BUCKET,), Lane.CORE, None),
        ((REDUCED,), Lane.CORE, None),
    ],
)
def test_a_record_in_one_piece_can_only_be_uploaded(
    fallbacks: tuple[FallbackStep, ...], lane: Lane, expected: FallbackStep | None
) -> None:
    """It has no detail that could be reduced or become an object."""
    assert next_fallback(fallbacks, a_delivery(SINGLE, Form.WHOLE, lane=lane)) is expected


@pytest.mark.parametrize(("tenant", "expected"), [("acme", BUCKET), ("other", REDUCED), ("unassigned", REDUCED)])
def test_a_tenants_own_bucket_is_a_fallback_of_its_own_call_logs(tenant: str, expected: FallbackStep) -> None:
    """The detail of another's goes to the step behind it."""
    fallbacks = (replace(BUCKET, tenants=frozenset({"acme"})), replace(REDUCED, tenants=None))
    delivery = a_delivery(msgspec.structs.replace(TWO_PHASE, tenant=tenant), Form.DETAIL)
    step = next_fallback(fallbacks, delivery)
    assert step is not None
    assert step.to == expected.to


@pytest.mark.parametrize(("step", "keep"), [(UPLOAD, False), (BUCKET, False), (REDUCED, True)])
def test_only_what_is_less_than_the_detail_keeps_it(step: FallbackStep, keep: bool) -> None:
    """A full detail that goes on elsewhere is owed no more; beside a reduced one it stays as a dead letter."""
    settlement = settle_too_large((step,), a_delivery(TWO_PHASE, Form.DETAIL), "413")
    assert settlement == Redirect("413", step.to, keep)


def test_without_a_step_it_is_a_dead_letter() -> None:
    """The reason says what was refused, and stays with it."""
    assert settle_too_large((), a_delivery(TWO_PHASE, Form.DETAIL), "413: ...") == DeadLetter("413: ...")


TOO_LARGE = Refused("413: too large", too_large=True)


@pytest.mark.parametrize(
    ("fallbacks", "sent", "states", "outcomes"),
    [
        ((), ["core", "detail"], ["delivered", "dead"], ["delivered", "dead"]),
        (
            (REDUCED,),
            ["core", "detail", "reduced"],
            ["delivered", "dead", "delivered"],
            ["delivered", "diverted", "delivered"],
        ),
        ((UPLOAD,), ["core", "detail", "whole"], ["delivered", "delivered"], ["delivered", "diverted", "delivered"]),
    ],
)
async def test_the_dispatcher_sends_what_takes_the_place(
    fallbacks: tuple[FallbackStep, ...], sent: list[str], states: list[str], outcomes: list[str]
) -> None:
    """A refused detail goes on at once, in the same destination, and only what was delivered is told as that."""
    async with a_stage(when_too_large=fallbacks) as stage:
        stage.uploader.answer = lambda one: TOO_LARGE if one.form is Form.DETAIL else Delivered()
        stage.dispatcher.offer((await stage.queue.accept(a_post("c", CORE, DETAIL))).ready)
        await turns()
        assert [one.form for one in stage.uploader.given] == sent
        assert stage.queue.states() == states
        assert stage.observed.attempts == outcomes


async def test_the_dispatcher_hands_over_to_another_destination() -> None:
    """An object is delivered by its bucket's uploader, then the notice of it by the endpoint's."""
    fallbacks = (to_bucket("endpoint", "other"),)
    async with a_stage(when_too_large=fallbacks) as stage:
        stage.uploader.answer = lambda one: TOO_LARGE if one.form is Form.DETAIL else Delivered()
        stage.other.answer = Delivered("s3://bucket/key")
        stage.dispatcher.offer((await stage.queue.accept(a_post("c", CORE, DETAIL))).ready)
        await turns()
        assert [one.form for one in stage.other.given] == [Form.DETAIL]
        assert [(one.form, one.location) for one in stage.uploader.given][-1] == (Form.NOTICE, "s3://bucket/key")
        assert (stage.queue.states(), stage.queue.states("other")) == (["delivered", "delivered"], ["delivered"])


async def test_a_reduced_detail_that_is_still_too_large_is_a_dead_letter() -> None:
    """Nothing goes round in circles: behind the last step there is only the dead letter."""
    async with a_stage(when_too_large=(UPLOAD, REDUCED)) as stage:
        stage.uploader.answer = lambda one: Delivered() if one.form is Form.CORE else TOO_LARGE
        stage.dispatcher.offer((await stage.queue.accept(a_post("c", CORE, DETAIL))).ready)
        await turns()
        assert [one.form for one in stage.uploader.given] == [Form.CORE, Form.DETAIL, Form.WHOLE, Form.REDUCED]
        assert stage.queue.states() == ["delivered", "dead", "dead"]
        assert stage.observed.attempts[-1] == "dead"


async def test_a_refusal_of_the_whole_destination_leads_nowhere_else() -> None:
    """Only what is said about the record diverts it: a pause of the destination is no news about its size."""
    async with a_stage(when_too_large=(REDUCED,)) as stage:
        stage.uploader.answer = Refused("403", Scope.DESTINATION, too_large=True)
        await stage.post("c", NewDelivery("endpoint", Form.WHOLE, Lane.CORE))
        await turns()
        assert stage.queue.states() == ["ready"]

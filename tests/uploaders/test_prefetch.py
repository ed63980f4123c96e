"""The buffer of deliveries that are due: what was offered, claimed and released."""

import pytest

from spool.records import Delivery, Due
from tests.uploaders.deliveries import a_delivery, a_record
from uploaders.dispatch.lane import HIGH_WATER, Prefetch

NOW = 1_750_000_000_000


def delivery(number: int, due_at: int = 0) -> Delivery:
    return a_delivery(a_record(record_id=number), due_at=due_at)


async def an_empty_buffer() -> Prefetch:
    """A buffer that knows that the spool has nothing."""
    buffer = Prefetch()

    async def nothing(_limit: int) -> Due:
        return Due((), None)

    await buffer.fill(nothing)
    assert buffer.idle
    return buffer


def test_a_new_buffer_knows_nothing() -> None:
    """Before the spool was asked, something may be waiting there, and offers wait for the answer."""
    buffer = Prefetch()
    buffer.offer(delivery(1), NOW)
    assert buffer.take() is None
    assert buffer.wants_filling
    assert buffer.may_have_waiting
    assert not buffer.idle


async def test_an_offer_that_is_not_due_is_noted() -> None:
    """What is due later sets the time at which the spool is asked."""
    buffer = await an_empty_buffer()
    buffer.offer(delivery(1, NOW + 500), NOW)
    buffer.offer(delivery(2, NOW + 300), NOW)
    assert buffer.take() is None
    for now, wants_filling in ((NOW + 299, False), (NOW + 300, True)):
        assert buffer.next_due_at == NOW + 300
        buffer.advance(now)
        assert buffer.wants_filling is wants_filling
    assert buffer.next_due_at is None


async def test_offers_are_taken_in_order_and_once() -> None:
    """A delivery that is claimed is not taken again until it was released."""
    buffer = await an_empty_buffer()
    for number in (1, 2, 1):
        buffer.offer(delivery(number), NOW)
    taken = [buffer.take(), buffer.take(), buffer.take()]
    assert taken == [delivery(1), delivery(2), None]
    buffer.offer(delivery(1), NOW)
    assert buffer.take() is None
    buffer.release(delivery(1).key)
    buffer.offer(delivery(1), NOW)
    assert buffer.take() == delivery(1)


async def test_a_full_buffer_leaves_offers_to_the_spool() -> None:
    """Beyond its limit the buffer only remembers that there is more."""
    buffer = await an_empty_buffer()
    for number in range(HIGH_WATER + 1):
        buffer.offer(delivery(number), NOW)
    assert not buffer.wants_filling
    taken = 0
    while buffer.take():
        taken += 1
    assert taken == HIGH_WATER
    assert buffer.wants_filling


async def test_an_offer_during_a_question_makes_for_another_question() -> None:
    """A delivery that is offered while a page is on its way may be missing in it."""
    buffer = Prefetch()

    async def meanwhile(_limit: int) -> Due:
        buffer.offer(delivery(1), NOW)
        return Due((), None)

    await buffer.fill(meanwhile)
    assert buffer.wants_filling


async def test_a_full_page_means_more() -> None:
    """Only a page that is not full says that everything due is here."""
    buffer = Prefetch()

    async def page(limit: int) -> Due:
        return Due(tuple(delivery(number) for number in range(limit)), NOW)

    await buffer.fill(page)
    while buffer.take():
        pass
    assert buffer.wants_filling
    assert buffer.next_due_at is None


async def test_a_page_grows_with_the_claims() -> None:
    """However many are claimed, a page has room for new ones behind them."""
    buffer = await an_empty_buffer()
    for number in range(300):
        buffer.offer(delivery(number), NOW)
        buffer.take()

    async def page(limit: int) -> Due:
        return Due(tuple(delivery(number) for number in range(limit)), NOW)

    await buffer.fill(page)
    assert buffer.take() == delivery(300)


async def test_a_postponement_during_a_question_is_not_forgotten() -> None:
    """The earlier of what the page names and what was noted meanwhile is the next time."""
    buffer = Prefetch()

    async def meanwhile(_limit: int) -> Due:
        buffer.note_due(NOW + 100)
        return Due((), NOW + 900)

    await buffer.fill(meanwhile)
    assert buffer.next_due_at == NOW + 100


async def test_a_question_that_fails_is_asked_again() -> None:
    """When a page does not come, the buffer still does not know what the spool has."""
    buffer = await an_empty_buffer()
    buffer.ask_again()

    async def failing(_limit: int) -> Due:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await buffer.fill(failing)
    assert buffer.wants_filling


async def test_the_first_that_is_wanted_can_be_taken() -> None:
    """Taking one out of the middle leaves the others in their order."""
    buffer = await an_empty_buffer()
    for number in range(4):
        buffer.offer(delivery(number), NOW)
    assert buffer.take_first(lambda one: one.record.record_id == 2) == delivery(2)
    assert buffer.take_first(lambda one: one.record.record_id == 9) is None
    assert [buffer.take(), buffer.take(), buffer.take()] == [delivery(0), delivery(1), delivery(3)]


async def test_what_is_withdrawn_is_forgotten_and_may_come_again() -> None:
    """An order moved it: what waits here is not sent as it was; what is being attempted stays claimed."""
    buffer = await an_empty_buffer()
    for number in (1, 2, 3):
        buffer.offer(delivery(number), NOW)
    attempted = buffer.take()
    assert attempted is not None
    buffer.withdraw({delivery(1).key, delivery(2).key})
    buffer.offer(delivery(1), NOW)
    buffer.offer(delivery(2), NOW)
    assert [one.record.record_id for one in iter(buffer.take, None) if one] == [3, 2]


async def test_a_page_that_was_read_before_an_order_does_not_bring_it_back() -> None:
    """What was withdrawn while a page was on its way is not taken from that page."""
    buffer = Prefetch()

    async def page(_limit: int) -> Due:
        """The order comes while this is read."""
        buffer.withdraw({delivery(1).key})
        return Due((delivery(1), delivery(2)), None)

    await buffer.fill(page)
    assert [one.record.record_id for one in iter(buffer.take, None) if one] == [2]

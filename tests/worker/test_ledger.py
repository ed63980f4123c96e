"""The books of a worker: whatever happens to messages, each is accounted for, and what is missing shows."""

from random import Random

from gateway.worker.messages import Batch, Incoming, Ledger
from uploaders.kafka.messages import BadMessage


def message(number: int, partition: int = 0) -> Incoming:
    return Incoming("call_ended", partition, number, b"k", b"v", (), BadMessage("no call"))


def test_every_way_of_a_message_balances() -> None:
    """In hand, new, duplicate, dead, dropped: at each step nothing is unaccounted for."""
    ledger = Ledger()
    batch = ledger.begin()
    for number in range(6):
        ledger.read(batch, message(number, partition=number % 2))
    assert (ledger.entry().in_hand, ledger.entry().unaccounted) == (6, 0)
    ledger.drop(batch, [("call_ended", 1)])
    ledger.stored(batch, 2, new=1)
    assert (ledger.entry().dropped, ledger.entry().in_hand, ledger.entry().unaccounted) == (3, 1, 0)
    ledger.buried(batch, 1)
    ledger.end(batch, written=True)
    entry = ledger.entry()
    assert (entry.read, entry.new, entry.duplicate, entry.dead, entry.dropped) == (6, 1, 1, 1, 3)
    assert (entry.in_hand, entry.unaccounted) == (0, 0)


def test_a_batch_that_is_given_up_is_dropped() -> None:
    """What was settled of it counts as that, the rest as left to another worker."""
    ledger = Ledger()
    batch = ledger.begin()
    for number in range(3):
        ledger.read(batch, message(number))
    ledger.stored(batch, 1, new=1)
    ledger.end(batch, written=False)
    assert (ledger.entry().dropped, ledger.entry().unaccounted) == (2, 0)


def test_a_message_that_is_forgotten_shows() -> None:
    """A batch that ends without all of its messages is what the gauge is there for."""
    ledger = Ledger()
    batch = ledger.begin()
    for number in range(3):
        ledger.read(batch, message(number))
    ledger.stored(batch, 2, new=2)
    ledger.end(batch, written=True)
    assert ledger.entry().unaccounted == 1


def test_offsets_are_those_of_the_next_messages() -> None:
    """One for each partition that the batch has messages of, unless it belongs to another worker now."""
    chance, batch = Random(1), Batch()
    for number in range(20):
        batch.add(message(number, partition=chance.randrange(3)))
    last = {each.place: each.offset + 1 for each in batch.messages}
    assert batch.offsets == last
    batch.disown([("call_ended", 0)])
    assert batch.offsets == {place: offset for place, offset in last.items() if place[1] != 0}
    assert len(batch.messages) == 20

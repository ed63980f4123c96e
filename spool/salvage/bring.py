"""The operations that write a found record into this spool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spool import statements as spool_statements
from spool.acceptance import still_loose
from spool.order import Sibling, place
from spool.records import Delivery, DeliveryState
from spool.rows import checksum_of, encode_fragments, uid_of
from spool.salvage import statements
from spool.salvage.found import Found, FoundDelivery, Outcome
from spool.settling import Names, read_delivery
from spool.statements import HELD_FOR_CORE
from spool.transaction import Transaction

Chunk = tuple[int, int, bytes]
"""Its id here, its checksum, and the frame."""


@dataclass(frozen=True, slots=True)
class LearnDestinations:
    """Know these destinations, whether the configuration has them or not."""

    names: tuple[str, ...]

    def __call__(self, transaction: Transaction) -> dict[int, str]:
        """Returns all destinations by their numbers."""
        for name in self.names:
            transaction.execute(spool_statements.ADD_DESTINATION, (name,))
        return dict(transaction.execute(spool_statements.ALL_DESTINATIONS).fetchall())


@dataclass(frozen=True, slots=True)
class Judge:
    """Whether a record is to be brought: it may be there already, or of no use any more."""

    found: Found
    spool_id: str
    supersedes: Mapping[str, str]
    """By event: the event of the call after which it is not sent any more."""

    def __call__(self, transaction: Transaction) -> Outcome:
        """Reads only."""
        record = self.found.record
        if transaction.execute(statements.BY_ORIGIN, (record.uid,)).fetchone() is not None:
            return Outcome.THERE
        own = record.uid == uid_of(self.spool_id, record.record_id)
        if own and transaction.execute(spool_statements.READ_RECORD, (record.record_id,)).fetchone() is not None:
            return Outcome.THERE
        earlier = transaction.execute(spool_statements.EARLIER_OF_CALL, (record.call_id,)).fetchall()
        for record_id, event, digest, *_ in earlier:
            if (event, digest) == (record.event, record.digest) and not _given_up(transaction, record_id):
                return Outcome.DUPLICATE
        later = self.supersedes.get(record.event)
        return Outcome.SUPERSEDED if any(event == later for _, event, *_ in earlier) else Outcome.BROUGHT


def _given_up(transaction: Transaction, record_id: int) -> bool:
    """Whether a record was expired or discarded: then it is no original of anything."""
    return transaction.execute(spool_statements.GIVEN_UP, (record_id,)).fetchone() is not None


@dataclass(frozen=True, slots=True)
class BringChunks:
    """Write a part of a large payload ahead of its record; the first part registers the range as loose."""

    chunks: Sequence[Chunk]
    loose_range: tuple[int, int]
    register: bool

    def __call__(self, transaction: Transaction) -> None:
        """One bounded transaction."""
        if self.register:
            transaction.execute(spool_statements.ADD_LOOSE_CHUNKS, self.loose_range)
        else:
            still_loose(transaction, self.loose_range[0])
        for chunk in self.chunks:
            transaction.chunks.add(chunk)


@dataclass(frozen=True, slots=True)
class Bring:
    """Write a record, the last of its chunks, and its deliveries, in the order of its call, after what is here already.

    Its name outside stays what it was, so that keys are those of the attempts before.
    """

    found: Found
    first_chunk: int
    chunks: Sequence[Chunk]
    loose: bool
    judge: Judge
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Outcome, tuple[Delivery, ...], dict[DeliveryState, int]]:
        """Returns what came of it, what may be sent at once, and how many deliveries it brought, by state."""
        outcome = self.judge(transaction)
        if outcome is not Outcome.BROUGHT:
            return outcome, (), {}
        if self.loose:
            still_loose(transaction, self.first_chunk)
            transaction.execute(spool_statements.FORGET_LOOSE_CHUNKS, (self.first_chunk,))
        for chunk in self.chunks:
            transaction.chunks.add(chunk)
        record_id = self._write_record(transaction)
        counts: dict[DeliveryState, int] = {}
        ready = []
        for one, state in self._placed(transaction, record_id):
            self._owe(transaction, record_id, one, state)
            counts[state] = counts.get(state, 0) + 1
            if state is DeliveryState.READY:
                ready.append(one)
        ids = self.names.ids
        return (
            outcome,
            tuple(read_delivery(transaction, record_id, ids[one.destination], one.form, self.names) for one in ready),
            counts,
        )

    def _write_record(self, transaction: Transaction) -> int:
        """Its row, with a number of this spool's."""
        record, token = self.found.record, self.found.token
        transaction.known.begins_call(record.call_id)  # a post of this call in the same transaction is not its first
        token_id = transaction.tokens.use(transaction.connection, token) if token else None
        record_id = transaction.new_record_id()
        row = (
            record_id, record.call_id, record.agent_id, record.event, record.environment, record.digest,
            record.raw_bytes, record.stored_bytes, record.accepted_at, token_id, self.first_chunk,
            encode_fragments(record.fragments), record.uid,
        )  # fmt: skip
        transaction.records.add((*row[:12], False, None, record.uid, checksum_of(row)))
        return record_id

    def _placed(self, transaction: Transaction, record_id: int) -> list[tuple[FoundDelivery, DeliveryState]]:
        """Every delivery with the state that it has here: what is queued gets a place, what is not keeps its state."""
        siblings = [self._sibling(one) for one in self.found.deliveries]
        placed = []
        for one, sibling in zip(self.found.deliveries, siblings, strict=True):
            if not one.state.queued:
                placed.append((one, one.state))
                continue
            state = place(transaction, self.found.record.call_id, record_id, sibling, siblings)
            placed.append((one, state))
        return placed

    def _sibling(self, one: FoundDelivery) -> Sibling:
        """As the order sees it: what was held is tried again, and held again if that is refused."""
        ids = self.names.ids
        state = DeliveryState.READY if one.state.queued else one.state
        after = None if one.after is None else ids[one.after]
        return Sibling(ids[one.destination], one.form, one.lane, state, one.ordered, after, None)

    def _owe(self, transaction: Transaction, record_id: int, one: FoundDelivery, state: DeliveryState) -> None:
        """One row, and the books."""
        ids = self.names.ids
        held_for = HELD_FOR_CORE if state is DeliveryState.HELD else None
        settled_at = None if state.queued else one.settled_at or self.now
        values = (
            record_id, ids[one.destination], one.form, one.lane, state, one.ordered,
            None if one.after is None else ids[one.after], one.attempts, min(one.due_at, self.now), one.first_failed_at,
            settled_at, held_for, one.location, one.error,
        )  # fmt: skip
        transaction.execute(statements.ADD_DELIVERY, values)
        transaction.counters.owe(ids[one.destination], one.lane, state, self.found.record.raw_bytes)

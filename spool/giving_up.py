"""Giving up details for room: the oldest first, and never anything that a dashboard needs at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from spool import statements
from spool.order import Sibling, siblings_of
from spool.payloads import chunk_range
from spool.records import Delivery, DeliveryState, Form, Fragment, Lane, Record, StoredFragment
from spool.rows import Row, checksum_of, encode_fragments, record_of
from spool.settling import Names, end_record, free_waiting
from spool.transaction import Transaction

RECORDS_PER_STEP = 50
"""Records that one transaction looks at: some milliseconds, between which posts are committed."""

_DETAILS = frozenset({Form.DETAIL, Form.REDUCED})
_MADE_OF_THE_REST = _DETAILS | {Form.WHOLE}


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What one step gave up, and where the next one goes on."""

    deliveries: int
    payload_bytes: int
    """Stored bytes that nothing needs any more."""
    freed: tuple[Delivery, ...]
    """Deliveries that may be sent now, because they waited for one that was given up."""
    last_record: int | None
    """The last record that was looked at; None when there are no more."""


@dataclass(frozen=True, slots=True)
class GiveUpDetails:
    """Expire queued details of records after `after`, oldest first, until `payload_bytes` are free or a step is done.

    A damaged record is passed over, and one whose rest something else still needs (a whole, a dead letter): nothing
    would become free. Dead letters stay. A notice of an object that will not come goes with the detail.
    """

    payload_bytes: int
    after: int
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> GivenUp:
        """One bounded transaction."""
        looked_at = self._oldest(transaction)
        deliveries = payload_bytes = 0
        freed: list[Delivery] = []
        for record_id in looked_at:
            given_up = _expendable(siblings_of(transaction, record_id))
            row = transaction.execute(statements.READ_RECORD, (record_id,)).fetchone()
            record = record_of(row, self.names.spool_id)
            if given_up and not record.damaged:
                self._expire(transaction, record, given_up)
                freed += free_waiting(transaction, record, self.names)
                payload_bytes += self._drop(transaction, record, row)
                deliveries += len(given_up)
            if payload_bytes >= self.payload_bytes:
                return GivenUp(deliveries, payload_bytes, tuple(freed), record_id)
        last = looked_at[-1] if len(looked_at) == RECORDS_PER_STEP else None
        return GivenUp(deliveries, payload_bytes, tuple(freed), last)

    def _oldest(self, transaction: Transaction) -> list[int]:
        """The next records with a queued detail, in commit order."""
        found: set[int] = set()
        for destination_id in self.names.names:
            for state in DeliveryState:
                if state.queued:
                    asked = (destination_id, Lane.DETAIL, state, self.after, RECORDS_PER_STEP)
                    found.update(row[0] for row in transaction.execute(statements.OLDEST_DETAILS, asked))
        return sorted(found)[:RECORDS_PER_STEP]

    def _expire(self, transaction: Transaction, record: Record, given_up: Iterable[Sibling]) -> None:
        """Let these deliveries end as expired."""
        for one in given_up:
            transaction.execute(statements.EXPIRE, (self.now, record.record_id, one.destination_id, one.form))
            transaction.counters.move(one.destination_id, one.lane, one.state, DeliveryState.EXPIRED, record.raw_bytes)

    def _drop(self, transaction: Transaction, record: Record, row: Row) -> int:
        """Let go of what only the details needed; returns how many stored bytes that were."""
        if end_record(transaction, record, self.now):
            return record.stored_bytes
        rest = record.fragments.get(Fragment.REST)
        if rest is None or not rest.chunks:
            return 0
        chunks = chunk_range(record.first_chunk, record.fragments, Fragment.REST)
        kept: dict[Fragment, StoredFragment] = dict(record.fragments)
        del kept[Fragment.REST]
        transaction.execute(statements.ADD_LOOSE_CHUNKS, (chunks.start, chunks.stop - 1))
        fragments, stored_bytes = encode_fragments(kept), record.stored_bytes - rest.stored_bytes
        checksum = checksum_of((*row[:7], stored_bytes, *row[8:11], fragments, *row[12:]))
        transaction.execute(statements.SET_FRAGMENTS, (fragments, stored_bytes, checksum, record.record_id))
        return rest.stored_bytes


def _expendable(record: list[Sibling]) -> list[Sibling]:
    """What of a record is given up: its queued details with the notices of them; nothing if its rest stays needed."""
    details = [one for one in record if one.form in _DETAILS and one.state.queued]
    others = [one for one in record if one.form in _MADE_OF_THE_REST and not one.state.ended and one not in details]
    if others:
        return []
    expected = {one.destination_id for one in details}
    notices = [
        one for one in record if one.form is Form.NOTICE and one.state.queued and one.after_destination_id in expected
    ]
    return [*details, *notices]

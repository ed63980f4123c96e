"""`Orders`: what operators ask and decide about deliveries that have not ended; `Spool.orders`.

Every order is written in bounded transactions, between which posts are committed. What such a step did is durable;
an order that is interrupted is given again, and goes on with what is left.
"""

from collections.abc import Callable, Iterable
from itertools import groupby

from spool.orders.discard import Discard
from spool.orders.find import find
from spool.orders.replay import Replay
from spool.orders.reroute import Reroute
from spool.orders.retoken import Retoken
from spool.orders.retry import Retry
from spool.orders.selection import Ordered, Page, Selection, place_of, together
from spool.reading import Reader
from spool.records import Delivery, DeliveryKey, Form
from spool.transaction import Operation
from spool.writer import Writer

KEYS_PER_STEP = 100
"""An order about many deliveries is written in transactions of this many, between which posts are committed."""

Keys = tuple[DeliveryKey, ...]


class Orders:
    """For the event loop. What an order frees is announced like a new record's deliveries."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        clock: Callable[[], int],
        announce: Callable[[tuple[Delivery, ...]], None],
        chunks_are_loose: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._announce = announce
        self._chunks_are_loose = chunks_are_loose

    async def record_id(self, uid: str) -> int | None:
        """The number here of the record that is called `uid` outside: one that was brought in, or one of this spool."""
        return await self._reader.record_id(uid)

    async def find(self, selection: Selection, *, limit: int, after: DeliveryKey | None = None) -> Page:
        """The next page of what `selection` takes, in commit order; at most `limit` deliveries are looked at."""
        return await find(self._reader, selection, limit, after)

    async def read(self, key: DeliveryKey) -> Delivery | None:
        """A delivery as an uploader sees it, for reading its document; None when there is none."""
        return await self._reader.delivery(key)

    async def replay(self, keys: Iterable[DeliveryKey]) -> Ordered:
        """Put dead letters back into the queue, in the order of their calls, as if never tried.

        Idempotency keys stay; what was held with a dead letter goes on waiting for it. What is no dead letter (any
        more) is passed over.
        """
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Replay(step, names, self._clock()))

    async def discard(self, keys: Iterable[DeliveryKey]) -> Ordered:
        """Give up deliveries that have not ended: they count as discarded, and a record may end with its last.

        A core that is discarded without its detail frees that to be sent.
        """
        names = self._reader.names
        done = await self._in_steps(keys, lambda step: Discard(step, names, self._clock()))
        self._chunks_are_loose()
        return done

    async def retry(self, keys: Iterable[DeliveryKey]) -> Ordered:
        """Make deliveries due now that are ready, but not before a later time; all others are passed over."""
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Retry(step, names, self._clock()))

    async def reroute(self, keys: Iterable[DeliveryKey], to: str, *, forms: frozenset[Form], ordered: bool) -> Ordered:
        """Move deliveries that have not ended to the destination `to`, which takes `forms`, as if never tried.

        What one record still owes to a destination moves together, and counts; see `Reroute` for what is passed over.
        """
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Reroute(step, to, forms, ordered, names, self._clock()))

    async def retoken(self, keys: Iterable[DeliveryKey], token: str) -> Ordered:
        """Let the call logs of these deliveries be sent with `token`, and free what was held for their old ones."""
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Retoken(step, token, names, self._clock()))

    async def _in_steps(self, keys: Iterable[DeliveryKey], operation: Callable[[Keys], Operation[Ordered]]) -> Ordered:
        """Submit the order a transaction's worth at a time; announce what each step freed."""
        done: list[Ordered] = []
        for step in steps(keys):
            done.append(await self._writer.submit(operation(step)))
            self._announce(done[-1].ready)
        return together(done)


def steps(keys: Iterable[DeliveryKey]) -> list[Keys]:
    """The keys of an order, without repetitions, in commit order, about a transaction's worth at a time.

    Those of one record stay together: a core that is given up a step before its detail would let that be sent.
    """
    parts: list[list[DeliveryKey]] = []
    for _, of_record in groupby(sorted(set(keys), key=place_of), key=lambda key: key.record_id):
        if not parts or len(parts[-1]) >= KEYS_PER_STEP:
            parts.append([])
        parts[-1].extend(of_record)
    return [tuple(part) for part in parts]

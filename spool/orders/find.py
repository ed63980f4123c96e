"""Finding the deliveries that an operator means, a bounded page at a time."""

from spool.figures import OpenDelivery
from spool.orders import statements
from spool.orders.selection import Page, Selection, place_of
from spool.reading import Reader
from spool.records import DeliveryKey, Form, Lane


async def find(reader: Reader, selection: Selection, limit: int, after: DeliveryKey | None) -> Page:
    """Look at the next `limit` deliveries that the indexes lead to, and keep those that the selection takes.

    In commit order over all destinations, lanes and states, so that orders are carried out in that order.
    """
    ahead = await _ahead(reader, selection, limit, after)
    ahead = [one for one in ahead if after is None or place_of(one.key) > place_of(after)]
    looked_at = sorted(ahead, key=_place)[:limit]
    last = looked_at[-1].key if len(looked_at) == limit else None
    return Page(tuple(one for one in looked_at if selection.takes(one)), last)


async def _ahead(reader: Reader, selection: Selection, limit: int, after: DeliveryKey | None) -> list[OpenDelivery]:
    """At least the next `limit` ones, in any order, by the narrowest index."""
    first = after.record_id if after else 0
    # A lane holds at most three forms of a record: some of `after`'s own were on the page before, and the last
    # record may be cut off among its forms.
    enough = limit + len(Form)
    if selection.record_id is not None:
        return await reader.find(statements.OPEN_OF_RECORD, (selection.record_id,))
    if selection.call_id is not None:
        return await _of_call(reader, selection.call_id, first, limit)
    ids = reader.names.ids
    wanted = ids.values() if selection.destination is None else [ids.get(selection.destination)]
    found: list[OpenDelivery] = []
    for destination_id in wanted:
        for lane in Lane:
            for state in sorted(selection.states):
                bounds = (destination_id, lane, int(state), first, enough)
                found += await reader.find(statements.OPEN_IN_STATE, bounds)
    return found


async def _of_call(reader: Reader, call_id: str, first: int, limit: int) -> list[OpenDelivery]:
    """Those of a call; of one record there are at most as many as destinations and forms."""
    most_of_a_record = len(reader.names.ids) * len(Form)
    return await reader.find(statements.OPEN_OF_CALL, (call_id, first, limit + 2 * most_of_a_record))


def _place(one: OpenDelivery) -> tuple[int, str, str]:
    """For sorting."""
    return place_of(one.key)

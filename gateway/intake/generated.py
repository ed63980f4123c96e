"""Call logs that the gateway makes itself: that a call is complete, a callback is due, a recording is kept.

They pass what every post passes. Each has a name that says what it is about, and the spool accepts a name once.
"""

from collections.abc import AsyncIterator, Awaitable, Hashable
from hashlib import sha256
from typing import Final, Generic, TypeVar

import msgspec

from gateway.calllog.errors import CallLogError
from gateway.intake.accept import Acceptor, Arrival, Owner
from gateway.intake.body_reader import BodyReader
from gateway.intake.memory import BudgetExhausted
from gateway.intake.parse import CallLog
from gateway.intake.responses import Rejection, translate
from spool.errors import SpoolError
from spool.records import Accepted, principal_of
from uploaders.stores.store import StoreError

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)

PASSED_OVER_MOST: Final = 10_000
"""So many that fail are remembered; then all are tried again."""


class NotAccepted(Exception):
    """A generated call log is refused for good: its call was erased, say."""


async def accept_generated(document: object, arrival: Arrival, bodies: BodyReader, acceptor: Acceptor) -> Accepted:
    """Make a call log durable that has a `call_id`; `document` is what msgspec encodes as its JSON.

    Raises `NotAccepted`; and where it may be accepted later `SpoolError`, `BudgetExhausted`, `Rejection`, `OSError`.
    """
    try:
        with await bodies.without_most().read_stream(_piece(msgspec.json.encode(document))) as body:
            parsed = await acceptor.parse(body, arrival)
            assert isinstance(parsed, CallLog), "it has a call_id, and more"
            return await acceptor.accept(parsed, arrival)
    except (CallLogError, Rejection, SpoolError) as error:
        rejection = translate(error)
        if rejection is None or rejection.retry_after is not None:
            raise
        raise NotAccepted(rejection.message) from error


async def result_or_error(work: Awaitable[T]) -> T | Exception:
    """What becomes of one thing of many: an error that is its own is returned, one that concerns all is raised.

    Raises `StoreError`, `SpoolError`, `BudgetExhausted`, `OSError`.
    """
    try:
        return await work
    except (StoreError, SpoolError, BudgetExhausted, OSError):
        raise
    except Exception as error:  # noqa: BLE001  # a defect that one of them meets must not keep the others waiting
        return error


class PassedOver(Generic[Key]):
    """What failed in a queue that is claimed from its front, and holds up nothing behind it.

    It is passed over, in as many looks as it takes, until the end of the queue was reached (`try_all_again`).
    """

    def __init__(self) -> None:
        self._keys: set[Key] = set()
        self._before: set[Key] = set()

    def __contains__(self, key: Key) -> bool:
        """Whether it failed since all were tried again."""
        return key in self._keys

    def __len__(self) -> int:
        """How many did."""
        return len(self._keys)

    def add(self, key: Key) -> bool:
        """This one failed; whether that is news: it did not the last time that it was tried."""
        is_news = key not in self._before
        self._keys.add(key)
        if len(self._keys) >= PASSED_OVER_MOST:
            self.try_all_again()
        return is_news

    def try_all_again(self) -> None:
        """Begin with the front of the queue again."""
        self._before, self._keys = self._keys, set()


async def _piece(document: bytes) -> AsyncIterator[bytes]:
    yield document


def arrival_of(event: str, project: str, call_id: str) -> Arrival:
    """How a generated event of a call in a store comes: whoever generates it, it is named the same."""
    tenant = project or None
    digest = sha256(f"{event}\0{project}\0{call_id}".encode("utf-8", "surrogatepass")).hexdigest()
    return Arrival(owner=Owner(tenant, principal_of(tenant, None)), origin=name_after(digest))


def name_after(digest: str) -> str:
    """A name for a record, made of a digest (hex) of what it is about: shaped as every name of a record is."""
    return f"{digest[:8]}-{int(digest[8:22], 16)}"

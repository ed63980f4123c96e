"""References: a note that a call log lies in a bucket is followed, and what lies there reaches the stores.

    {"s3_reference": true, "s3_bucket", "s3_key", "call_id", ...}

The object is streamed within the memory budget, decoded, checked and split as if it had been posted, and accepted on
behalf of whoever posted the note, for stores alone: every other destination was sent the note and reads it itself.
"""

import time
from collections.abc import AsyncIterator, Collection
from contextlib import aclosing, asynccontextmanager
from typing import Final, Protocol

import msgspec

from gateway.calllog.errors import CallLogError
from gateway.intake.accept import Acceptor, Arrival, Owner
from gateway.intake.body_reader import BodyReader
from gateway.intake.memory import BudgetExhausted
from gateway.intake.parse import CallLog
from gateway.intake.responses import Rejection
from gateway.tenants import may_refer_to
from spool.errors import SpoolError
from spool.records import Delivery
from uploaders.base import Delivered, Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.encoding import decoded_document
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.errors import NoSuchObject, OtherTenantsObject, S3Failure

MISSING_SECONDS: Final = 24 * 3600.0
"""How long an object that is not there (yet) is asked for."""
MOST_NOTE_BYTES: Final = 1 << 20
"""A larger note is not read into memory: the SDK's have a few hundred bytes."""


class ReferenceFailure(Exception):
    """A reference cannot be followed, now or ever; `outcome` says why, and what that means for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class ReferenceObserver(Protocol):
    """Hears what is read, for metrics."""

    def reference_downloaded(self, seconds: float, size: int) -> None:
        """An object of this many bytes, once decoded, was read and decoded in this time."""


class _Note(msgspec.Struct):
    """The members of a note that say where the object is. Not having `s3_bucket` is the sender's mistake."""

    s3_key: str
    s3_bucket: str = ""


_decode_note = msgspec.json.Decoder(_Note).decode


class ReferenceReader:
    """Reads what notes refer to, from the `buckets` that are allowed and no others."""

    def __init__(
        self, connection: S3Connection, bucket: Bucket, buckets: Collection[str], bodies: BodyReader,
        acceptor: Acceptor, observer: ReferenceObserver,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._bucket = bucket
        self._buckets = frozenset(buckets)
        self._bodies = bodies
        self._acceptor = acceptor
        self._observer = observer

    @asynccontextmanager
    async def read(self, note: bytes, call_id: str, arrival: Arrival) -> AsyncIterator[CallLog]:
        """The call log that the note about `call_id` refers to, for the block; then its memory is given back.

        Raises `ReferenceFailure`.
        """
        bucket, key = self._place_of(note)
        tenants = may_refer_to(arrival.owner and arrival.owner.tenant)
        started = time.perf_counter()
        try:
            async with aclosing(self._bucket.called(bucket).read(key, tenants)) as pieces:
                body = await self._bodies.read_stream(pieces)
            with body:
                size = len(body.data)
                parsed = await self._acceptor.parse(body, arrival)
                self._observer.reference_downloaded(time.perf_counter() - started, size)
                if not isinstance(parsed, CallLog):
                    raise ReferenceFailure(Refused(f"{_named(bucket, key)} holds no call log"))
                if parsed.call_id != call_id:
                    raise ReferenceFailure(Refused(f"{_named(bucket, key)} is about another call than its reference"))
                yield parsed
        except NoSuchObject as error:
            reason = f"there is no {_named(bucket, key)} (yet): {error}"
            raise ReferenceFailure(RetryLater(reason, give_up_after_seconds=MISSING_SECONDS)) from error
        except OtherTenantsObject as error:
            raise ReferenceFailure(Refused(f"{_named(bucket, key)} is of a call of another tenant")) from error
        except S3Failure as error:
            raise ReferenceFailure(error.outcome) from error
        except CallLogError as error:
            raise ReferenceFailure(Refused(f"{_named(bucket, key)}: {error.message}")) from error
        except Rejection as error:
            raise ReferenceFailure(outcome_of(error, f"{_named(bucket, key)}: ")) from error
        except BudgetExhausted as error:
            raise ReferenceFailure(RetryLater(str(error))) from error

    async def close(self) -> None:
        """Close the connections to the bucket."""
        await self._connection.close()

    def _place_of(self, note: bytes) -> tuple[str, str]:
        try:
            place = _decode_note(note)
        except msgspec.DecodeError as error:
            raise ReferenceFailure(Refused(f"the reference cannot be read: {error}")) from None
        if place.s3_bucket not in self._buckets:
            hint = "references.buckets does not name it"
            raise ReferenceFailure(Refused(f"the bucket {place.s3_bucket[:80]!r} may not be read: {hint}"))
        if not place.s3_key:
            raise ReferenceFailure(Refused("the reference names no key"))
        return place.s3_bucket, place.s3_key


class ReferenceUploader:
    """Follows the notes that the spool holds: the object becomes a record of its own, owed to the stores."""

    def __init__(self, reader: ReferenceReader, acceptor: Acceptor, payloads: PayloadReader) -> None:
        self._reader = reader
        self._acceptor = acceptor
        self._payloads = payloads

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Read the object and make it durable; only then is the note done with."""
        record = delivery.record
        if record.raw_bytes > MOST_NOTE_BYTES:
            return Refused(f"the reference is too large: {record.raw_bytes:,} of at most {MOST_NOTE_BYTES:,} bytes")
        note = b"".join([piece async for piece in decoded_document(delivery, self._payloads.frames)])
        try:
            arrival = Arrival(owner=Owner(record.tenant, record.principal or ""), via=record.via)
            async with self._reader.read(note, record.call_id, arrival) as call_log:
                await self._acceptor.accept(call_log, arrival)
        except ReferenceFailure as failure:
            return failure.outcome
        except Rejection as rejection:
            return outcome_of(rejection)
        except SpoolError as error:
            return RetryLater(f"the spool cannot take the object now: {error}", Scope.DESTINATION)
        except OSError as error:
            return RetryLater(f"the object cannot be staged: {error.strerror}", Scope.DESTINATION)
        return Delivered()

    async def close(self) -> None:
        """Close the connections to the bucket."""
        await self._reader.close()


def outcome_of(rejection: Rejection, before: str = "") -> Outcome:
    """What it means for a delivery that what was made of it is rejected, as a post of it would be."""
    if rejection.retry_after is None:
        return Refused(before + rejection.message)
    return RetryLater(before + rejection.message, after_seconds=rejection.retry_after)


def _named(bucket: str, key: str) -> str:
    """For people; a key is as long as its sender likes."""
    return f"object s3://{bucket}/{key[:200]}"

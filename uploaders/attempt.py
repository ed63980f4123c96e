"""One attempt, of which nothing escapes: whatever an uploader raises becomes a value."""

import asyncio
import traceback
from dataclasses import dataclass

import structlog

from spool.errors import CorruptPayload, SpoolError
from spool.records import Delivery
from uploaders.uploader import Outcome, RetryLater, Uploader

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The spool could not give the payload: nothing was learned about the destination.

    `lost` says that it never will; otherwise the spool is in trouble at the moment.
    """

    reason: str
    lost: bool


async def attempt(uploader: Uploader, delivery: Delivery, *, cancelled_by_us: asyncio.Event) -> Outcome | Unreadable:
    """Make one attempt. Raises only `CancelledError`, and that only when `cancelled_by_us` is set."""
    if delivery.record.damaged:
        return Unreadable(f"what is stored about record {delivery.record.uid} does not match its checksum", lost=True)
    try:
        return await uploader.deliver(delivery)
    except CorruptPayload as error:
        return Unreadable(str(error), lost=True)
    except SpoolError as error:
        return Unreadable(f"the payload cannot be read at the moment: {type(error).__name__}", lost=False)
    except asyncio.CancelledError as error:
        if cancelled_by_us.is_set():
            raise
        return _unexpected(delivery, error)
    except Exception as error:  # noqa: BLE001 - a defect of one uploader must not stop the lane; it is logged
        return _unexpected(delivery, error)


def _unexpected(delivery: Delivery, error: BaseException) -> RetryLater:
    """Name the error and where it was raised, not its text: that may quote a header or an address."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    log.error(
        "uploader_raised",
        destination=delivery.destination,
        record=delivery.record.uid,
        error=type(error).__name__,
        where=where,
    )
    return RetryLater(f"the uploader failed unexpectedly: {type(error).__name__}")

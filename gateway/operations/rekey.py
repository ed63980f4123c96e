"""An order to rekey: answered by lines, the last of which says how it ended."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from gateway.operations.salvage import REPORT_SECONDS, Progress
from spool.admin.rekey import Rekeyed, Rekeying
from spool.errors import SpoolError


class RekeyReport(msgspec.Struct, frozen=True, tag="rekeyed"):
    """What was done."""

    key_id: str
    """The name of the main key that everything is under now."""
    epochs: int
    """Keys of epochs that were wrapped by an older main key."""
    records: int
    """Call logs that lay plain."""
    tokens: int
    spans: int
    """Posts of spans that lay plain."""


class RekeyFailed(msgspec.Struct, frozen=True, tag="failed"):
    """Why it did not come to its end; what was done until then stays."""

    reason: str


RekeyLine = Progress | RekeyReport | RekeyFailed


async def carry_out(rekeying: Rekeying) -> AsyncGenerator[RekeyLine, None]:
    """Rekey, and report how it goes."""
    loop = asyncio.get_running_loop()
    reported_at = 0.0
    try:
        async with aclosing(rekeying.steps()) as steps:
            async for step in steps:
                if isinstance(step, Rekeyed):
                    yield RekeyReport(step.key_id, step.epochs, step.records, step.tokens, step.spans)
                elif loop.time() - reported_at >= REPORT_SECONDS:
                    reported_at = loop.time()
                    yield Progress(step.what, step.done, step.total)
    except SpoolError as error:
        yield RekeyFailed(str(error))

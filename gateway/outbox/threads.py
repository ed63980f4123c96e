"""Work on an outbox in a thread, waited for to its end even by who is cancelled."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from spool.receiving import uninterrupted

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    """The function's result. A connection must not be closed while a thread is still inside of it."""
    return await uninterrupted(asyncio.ensure_future(asyncio.to_thread(function, *arguments, **keywords)))

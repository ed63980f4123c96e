"""What waits for the writer: an operation, and whoever awaits its result."""

import asyncio
from dataclasses import dataclass
from typing import Generic

from spool.transaction import Operation, Result


@dataclass(slots=True)
class Request(Generic[Result]):
    """One operation on its way: made on the event loop, run in the writer's thread, resolved on the event loop."""

    operation: Operation[Result]
    byte_count: int
    future: asyncio.Future[Result]
    call_id: str | None
    record_id: int | None
    result: Result | None = None
    error: Exception | None = None

    def resolve(self) -> None:
        """Tell what came of it; who was cancelled meanwhile is not told."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # None only where Result allows it


Group = list[Request[object]]
"""Requests that share a transaction."""


@dataclass(frozen=True, slots=True)
class Setback:
    """What made a group's transaction come to nothing; with `shared` it would be no better for any of them alone."""

    error: Exception
    shared: bool


def fail(group: Group, error: Exception) -> None:
    """None of them came to anything."""
    for request in group:
        request.error = error


def resolve(group: Group) -> None:
    """Tell everyone of a group. For the event loop."""
    for request in group:
        request.resolve()

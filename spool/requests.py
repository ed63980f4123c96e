"""What waits for the writer: an operation, and whoever awaits its result."""

import asyncio
from dataclasses import dataclass
from typing import Generic

from spool.packing import Small
from spool.transaction import Operation, Result


class Commitment(asyncio.Future[Result]):
    """What an operation comes to. It runs whether anybody waits for it or not, and may use the caller's buffers.

    So whoever awaits it is cancelled only when it is done: a task that is told that its future cannot be cancelled
    goes on waiting, and is cancelled where it awaited.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  # asyncio's signature
        """Refuse."""
        return False


@dataclass(slots=True)
class Request(Generic[Result]):
    """One operation on its way: made on the event loop, run in the writer's thread, resolved on the event loop."""

    operation: Operation[Result]
    byte_count: int
    commitment: Commitment[Result]
    call_id: str | None
    record_id: int | None
    payload: Small | None
    result: Result | None = None
    error: Exception | None = None

    def resolve(self) -> None:
        """Tell what came of it."""
        if self.error is not None:
            self.commitment.set_exception(self.error)
        else:
            self.commitment.set_result(self.result)  # type: ignore[arg-type]  # None only where Result allows it


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

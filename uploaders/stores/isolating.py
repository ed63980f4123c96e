"""Poison parts: a batch of which the database refuses a value is halved until the part at fault stands alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from uploaders.stores.parts import Part
from uploaders.stores.store import PartRefused

Result = TypeVar("Result")


async def write_in_halves(
    parts: Sequence[Part], write: Callable[[Sequence[Part]], Awaitable[Result]]
) -> list[tuple[Sequence[Part], Result | PartRefused]]:
    """What became of the parts, in their order: those that were written together, and each that was refused, alone.

    Raises what `write` raises besides `PartRefused`. Of n parts with one at fault 2 log2(n) batches are written.
    """
    if not parts:
        return []
    try:
        return [(parts, await write(parts))]
    except PartRefused as error:
        if len(parts) == 1:
            return [(parts, error)]
    middle = len(parts) // 2
    return [*await write_in_halves(parts[:middle], write), *await write_in_halves(parts[middle:], write)]

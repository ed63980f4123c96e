"""A refused batch is halved until each part at fault stands alone."""

from collections.abc import Sequence
from random import Random

import pytest

from tests.stores.calls import part_of
from uploaders.stores.parts import Part, PartKind
from uploaders.stores.store import PartRefused, StoreUnavailable
from uploaders.stores.uploader import write_in_halves


@pytest.mark.parametrize("seed", range(20))
async def test_all_but_the_guilty_are_written_in_their_order(seed: int) -> None:
    """Whatever is refused, every other part is written once, and the refused ones are alone."""
    chance = Random(seed)
    parts = [part_of(PartKind.START, f"c{number}") for number in range(chance.randrange(1, 40))]
    guilty = {part.call_id for part in parts if chance.random() < 0.1}

    async def write(some: Sequence[Part]) -> int:
        if any(part.call_id in guilty for part in some):
            raise PartRefused("a value")
        return len(some)

    results = await write_in_halves(parts, write)
    assert [part for some, _ in results for part in some] == parts
    refused = [some for some, result in results if isinstance(result, PartRefused)]
    assert {part.call_id for (part,) in refused} == guilty


async def test_what_is_no_fault_of_a_part_is_raised() -> None:
    """A database that is down is not searched for a part at fault."""
    calls = 0

    async def write(some: Sequence[Part]) -> int:
        nonlocal calls
        calls += 1
        raise StoreUnavailable("down")

    with pytest.raises(StoreUnavailable):
        await write_in_halves([part_of(PartKind.START), part_of(PartKind.END)], write)
    assert calls == 1
    assert await write_in_halves([], write) == []

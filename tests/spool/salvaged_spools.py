"""Spools with a bit of everything, damaged, moved aside and salvaged, and what they would deliver."""

import random
from pathlib import Path

import zstandard

from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, CorruptPayload, SchemaTooNew
from spool.keys import KEYS_NAME, KeyRing
from spool.records import DeadLetter, Delivered, DeliveryState, Fragment
from spool.salvage.model import Tally
from spool.salvage.service import Task
from spool.stats import LaneCounts
from spool.store import Spool
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    NOTICE,
    OBJECT,
    a_record,
    due,
    opened,
    split_fragments,
)

SUPERSEDES = {"call_started": "call_ended"}

Body = bytes
Known = dict[str, dict[Fragment, Body]]
"""What was posted, by call id."""


async def fill(spool: Spool, *, calls: int = 12, seed: int = 1, first: int = 0) -> Known:
    """Small and split records, with tokens, some delivered, one a dead letter; a large one in several chunks."""
    chance, known = random.Random(seed), dict[str, dict[Fragment, Body]]()
    for number in range(first, calls):
        call, size = f"call-{number}", 1 + chance.randrange(30_000)
        if number % 3 == 0:
            fragments = split_fragments(chance.randbytes(3_000_000 if number == 3 else size))
            await spool.accept(a_record(call, CORE, DETAIL, OBJECT, NOTICE, fragments=fragments, token=f"t{number}"))
            known[call] = {
                fragment: b"".join(bytes(piece) for piece in pieces) for fragment, pieces in fragments.items()
            }
        else:
            body = chance.randbytes(size)
            await spool.accept(a_record(call, body=body, token=f"t{number % 4}"))
            known[call] = {Fragment.BODY: body}
    one, other, *_ = await due(spool)
    await spool.settle(one, Delivered())
    await spool.settle(other, DeadLetter("made to fail"))
    return known


async def bring(spool: Spool, directory: Path, *, adopt: bool = False, dry_run: bool = False) -> Tally:
    """The tally of a salvage."""
    last = None
    async for step in spool.salvage.carry_out(Task(directory, adopt, dry_run), SUPERSEDES):
        last = step
    assert isinstance(last, Tally)
    return last


async def content(spool: Spool, call: str, fragment: Fragment) -> Body:
    """A fragment as a delivery would send it. Raises `CorruptPayload`."""
    (record,) = await spool.trace(call)
    frames = [frame async for frame in spool.frames(record.record, fragment)]
    return b"".join(zstandard.ZstdDecompressor().decompress(frame) for frame in frames)


async def open_deliveries(spool: Spool) -> dict[str, DeliveryState]:
    """The idempotency keys, with destination, of all that has not ended, by trace."""
    found = {}
    for number in range(100):
        for record in await spool.trace(f"call-{number}"):
            for one in record.deliveries:
                if not one.state.ended:
                    found[f"{record.record.uid}-{one.form}-{one.destination}"] = one.state
    return found


def totals(spool: Spool) -> LaneCounts:
    """All lanes together, as far as these tests look."""
    lanes = spool.stats().lanes.values()
    return LaneCounts(
        owed=sum(each.owed for each in lanes),
        ready=sum(each.ready for each in lanes),
        waiting=sum(each.waiting for each in lanes),
        dead=sum(each.dead for each in lanes),
    )


async def filled_aside(directory: Path) -> tuple[Known, dict[str, DeliveryState]]:
    """A spool in `directory` as `fill` made it; what was posted, and what is owed."""
    async with opened(directory) as spool:
        known = await fill(spool)
        return known, await open_deliveries(spool)


# A spool as a crash left it, damaged in one place, started, salvaged and read.


LOG_NAME = f"{DATABASE_NAME}-wal"


class Crashed:
    """The files of a spool that was killed, half of its records in the log, and what was posted to it."""

    def __init__(self, images: dict[str, bytes], known: Known, keys: KeyRing) -> None:
        self.images = images
        self.known = known
        self.keys = keys

    @classmethod
    async def make(cls, directory: Path, keys: KeyRing | None = None) -> "Crashed":
        """With `keys` it is encrypted, and its file of keys is among the images."""
        ring = keys or KeyRing()
        async with opened(directory, keys=ring) as spool:
            known = await fill(spool, calls=6)
        async with opened(directory, keys=ring) as spool:
            spool._writer.database._checkpointer.stop()
            known |= await fill(spool, calls=9, seed=2, first=6)
            names = (DATABASE_NAME, LOG_NAME, *((KEYS_NAME,) if ring.keys else ()))
            images = {name: (directory / name).read_bytes() for name in names}
        return cls(images, known, ring)

    def lay(self, directory: Path, images: dict[str, bytes]) -> None:
        directory.mkdir()
        for name, image in images.items():
            (directory / name).write_bytes(image)
            (directory / name).chmod(0o600)

    def flipped(self, chance: random.Random) -> tuple[str, dict[str, bytes]]:
        """One bit of one file is the other way round; where, and the files."""
        name = chance.choice([DATABASE_NAME, LOG_NAME])
        image = bytearray(self.images[name])
        place = chance.randrange(len(image))
        image[place] ^= 1 << chance.randrange(8)
        return f"{name} at {place}", {**self.images, name: bytes(image)}

    async def outcome(self, directory: Path, where: str) -> int:
        """Start on it, salvage what was moved aside; returns how many payloads can be read. None of them is wrong."""
        try:
            async with opened(directory, keys=self.keys):
                pass
        except SchemaTooNew:
            return 0  # a version that is a little ahead is taken for what it says
        async with opened(directory, keys=self.keys) as spool:
            for aside in spool.stats().quarantined:
                try:
                    await bring(spool, aside.directory)
                except CorruptDatabase:
                    assert aside.reason
            readable = 0
            for call, fragments in self.known.items():
                for traced in await spool.trace(call):
                    if traced.record.damaged or traced.settled_at is not None:
                        continue
                    for fragment, expected in fragments.items():
                        try:
                            assert await content(spool, call, fragment) == expected, where
                            readable += 1
                        except (CorruptPayload, CorruptDatabase):
                            continue
            return readable

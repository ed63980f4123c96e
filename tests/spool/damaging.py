"""A spool as a crash left it, damaged in one place, started, salvaged and read: what the table and the proof share."""

import random
from pathlib import Path

from spool.directory import DATABASE_NAME
from spool.errors import CorruptDatabase, CorruptPayload, SchemaTooNew
from tests.spool.building import opened
from tests.spool.salvaging import Known, bring, content, fill

LOG_NAME = f"{DATABASE_NAME}-wal"


class Crashed:
    """The files of a spool that was killed, half of its records in the log, and what was posted to it."""

    def __init__(self, images: dict[str, bytes], known: Known) -> None:
        self.images = images
        self.known = known

    @classmethod
    async def make(cls, directory: Path) -> "Crashed":
        async with opened(directory) as spool:
            known = await fill(spool, calls=6)
        async with opened(directory) as spool:
            spool._writer.database._checkpointer.stop()
            known |= await fill(spool, calls=9, seed=2, first=6)
            images = {name: (directory / name).read_bytes() for name in (DATABASE_NAME, LOG_NAME)}
        return cls(images, known)

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
            async with opened(directory):
                pass
        except SchemaTooNew:
            return 0  # a version that is a little ahead is taken for what it says
        async with opened(directory) as spool:
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

"""What hears of writes to a store, and a store that refuses some of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.stores.calls import RULE
from uploaders.stores.parts import Part, PartKind
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import PartRefused, Written


@dataclass
class Counts:
    """Hears what is written."""

    batches: list[int] = field(default_factory=list)
    refused: list[PartKind] = field(default_factory=list)

    def parts_written(
        self, destination: str, parts: Mapping[PartKind, int], seconds: float, lag: float, written: Written
    ) -> None:
        self.batches.append(sum(parts.values()))

    def part_refused(self, destination: str, kind: PartKind) -> None:
        self.refused.append(kind)


class RefusingStore(SqliteStore):
    """A database that refuses the parts of these calls, or everything with this error."""

    def __init__(self, directory: Path, refused: Collection[str] = (), error: Exception | None = None) -> None:
        super().__init__(directory / "refusing.db", lambda: 0, RULE)
        self.refused = refused
        self.error = error
        self.kept: list[str] = []
        self.batches: list[int] = []

    async def write(self, parts: Sequence[Part]) -> Written:
        self.batches.append(len(parts))
        if self.error is not None:
            raise self.error
        if any(part.call_id in self.refused for part in parts):
            raise PartRefused("the database refuses a value (22P05)")
        written = await super().write(parts)
        self.kept += [part.call_id for part in parts]
        return written

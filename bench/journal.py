"""Reading what arrived at the endpoint while it is still writing."""

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request that the endpoint took: its kind (whole, core, detail, notice, or object for what came through an
    upload address), its idempotency key, the digest of the document, its size, and monotonic time in seconds."""

    call_id: str
    kind: str
    key: str
    sha256: str
    raw_bytes: int
    sent_bytes: int
    at: float


@dataclass(slots=True)
class Journal:
    """The endpoint's journal; `read` takes in what was added since the last time."""

    path: Path
    arrived: list[Arrived] = field(default_factory=list)
    refused: int = 0
    """Requests that the endpoint did not take, such as a detail whose core it does not know."""
    _position: int = 0

    def read(self) -> None:
        """Take in every line that is complete."""
        with self.path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._take(json.loads(line))

    def details(self) -> list[Arrived]:
        """The details that arrived, in order."""
        return [one for one in self.arrived if one.kind == "detail"]

    def first_of_call(self) -> dict[str, Arrived]:
        """When each call became known at the endpoint: its core, or its whole."""
        first: dict[str, Arrived] = {}
        for one in self.arrived:
            if one.kind in {"core", "whole"}:
                first.setdefault(one.call_id, one)
        return first

    def _take(self, entry: dict[str, object]) -> None:
        if not entry["taken"]:
            self.refused += 1
            return
        self.arrived.append(
            Arrived(
                call_id=str(entry["call_id"]),
                kind=str(entry["kind"]),
                key=str(entry["key"]),
                sha256=str(entry["sha256"]),
                raw_bytes=int(str(entry["raw_bytes"])),
                sent_bytes=int(str(entry["sent_bytes"])),
                at=float(str(entry["at"])),
            )
        )

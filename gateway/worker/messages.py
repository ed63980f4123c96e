"""What a worker has in hand: messages as they were read, batches of them, and the books that must balance."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from uploaders.kafka.messages import BadMessage, Headers
from uploaders.stores.parts import Part

Place = tuple[str, int]
"""A partition: topic and number."""


class ClaimFailed(Exception):
    """What a notice refers to cannot be read; says why."""


class Incoming(Struct, frozen=True):
    """A message as it was read. It is taken apart by the consumer's thread, while a batch before it is written."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    part: Part | BadMessage
    """What it says of a call, or why that cannot be read."""

    @property
    def place(self) -> Place:
        """Its partition."""
        return (self.topic, self.partition)

    @property
    def origin(self) -> str:
        """Where it was read, for people."""
        return f"{self.topic} [{self.partition}] at offset {self.offset}"


@dataclass(slots=True)
class Batch:
    """Messages that are written together. What is not settled of it is still in hand."""

    messages: list[Incoming] = field(default_factory=list)
    byte_count: int = 0
    offsets: dict[Place, int] = field(default_factory=dict)
    """For each partition the offset to commit once all is written: that of the next message."""
    settled: int = 0
    """Messages that are stored, or among the dead."""

    def add(self, message: Incoming) -> None:
        """Take one more; those of a partition come in order."""
        self.messages.append(message)
        self.byte_count += len(message.value or b"")
        self.offsets[message.place] = message.offset + 1

    def drop(self, places: Sequence[Place]) -> int:
        """Forget the messages of partitions that belong to another worker now; returns how many there were."""
        gone = set(places)
        kept = [message for message in self.messages if message.place not in gone]
        count = len(self.messages) - len(kept)
        self.messages = kept
        self.byte_count = sum(len(message.value or b"") for message in kept)
        self.disown(places)
        return count

    def disown(self, places: Sequence[Place]) -> None:
        """Commit nothing in these partitions: they belong to another worker now."""
        for place in places:
            self.offsets.pop(place, None)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The books at one moment."""

    read: int = 0
    new: int = 0
    duplicate: int = 0
    dead: int = 0
    dropped: int = 0
    """Read, and left to another worker unwritten."""
    in_hand: int = 0

    @property
    def unaccounted(self) -> int:
        """Messages that were read and of which nothing is known. Must be 0."""
        return self.read - self.new - self.duplicate - self.dead - self.dropped - self.in_hand


class Ledger:
    """Conservation: each message that was read is in hand, in the store, dead, or left to another worker.

    The counts are independent of each other: what was read is counted by the consumer's thread, what is new and what
    was there by the database, what is dead by the broker. For any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = self._new = self._duplicate = self._dead = self._dropped = 0
        self._batches: list[Batch] = []

    def begin(self) -> Batch:
        """An empty batch, which is in hand until `end`."""
        with self._lock:
            batch = Batch()
            self._batches.append(batch)
            return batch

    def read(self, batch: Batch, message: Incoming) -> None:
        """A message was read into this batch."""
        with self._lock:
            self._read += 1
            batch.add(message)

    def stored(self, batch: Batch, count: int, new: int) -> None:
        """So many messages of the batch are in the store; of these `new` were not there before."""
        with self._lock:
            self._new += new
            self._duplicate += count - new
            batch.settled += count

    def buried(self, batch: Batch, count: int) -> None:
        """So many messages of the batch are among the dead."""
        with self._lock:
            self._dead += count
            batch.settled += count

    def drop(self, batch: Batch, places: Sequence[Place]) -> None:
        """The messages of these partitions are another worker's now."""
        with self._lock:
            self._dropped += batch.drop(places)

    def end(self, batch: Batch, *, written: bool) -> None:
        """It is in hand no more: written, or given up for another worker, who reads it again."""
        with self._lock:
            self._batches.remove(batch)
            if not written:
                self._dropped += len(batch.messages) - batch.settled

    def entry(self) -> LedgerEntry:
        """The books at this moment."""
        with self._lock:
            in_hand = sum(len(batch.messages) - batch.settled for batch in self._batches)
            return LedgerEntry(self._read, self._new, self._duplicate, self._dead, self._dropped, in_hand)

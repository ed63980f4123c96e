"""Large payloads on their way in: compressed off the event loop, written in bounded transactions.

A payload that compresses to at most `GROUP_HEAVY_BYTES` is written in the transaction that accepts its record. A
larger one is written batch by batch before that, in a range of chunks that is registered as loose, so that a crash
leaves nothing that would have to be searched for.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from spool import statements
from spool.acceptance import still_loose, write_frames
from spool.line import GROUP_HEAVY_BYTES
from spool.packing import Stored
from spool.payloads import Frame, FrameWriter, chunk_count
from spool.records import Buffer, Fragment, StoredFragment
from spool.transaction import Transaction


@dataclass(slots=True)
class Incoming:
    """One payload, compressed a batch at a time. `next_batch` may run in any thread, one call at a time."""

    first_chunk: int
    chunks: int
    frames: Generator[tuple[Fragment, Frame], None, None]
    sizes: dict[Fragment, list[int]]
    """Chunks, raw bytes and stored bytes of each fragment, in the order of chunks, as far as they are compressed."""
    loose: bool = False
    """Whether some of it is in the spool already."""
    _written: int = 0

    @classmethod
    def of(cls, fragments: Mapping[Fragment, Sequence[Buffer]], first_chunk: int, level: int) -> "Incoming":
        """The payload of `fragments`, whose chunks begin at `first_chunk`."""
        sizes = {fragment: [0, 0, 0] for fragment in fragments}
        return cls(first_chunk, total_chunks(fragments), _frames(fragments, FrameWriter(level)), sizes)

    def next_batch(self) -> tuple[list[Frame], bool]:
        """Up to `GROUP_HEAVY_BYTES` of frames, and whether these were the last."""
        batch: list[Frame] = []
        byte_count = 0
        for fragment, frame in self.frames:
            batch.append(frame)
            byte_count += len(frame.data)
            sizes = self.sizes[fragment]
            sizes[0] += 1
            sizes[1] += frame.raw_bytes
            sizes[2] += len(frame.data)
            if byte_count >= GROUP_HEAVY_BYTES:
                break
        return batch, sum(sizes[0] for sizes in self.sizes.values()) == self.chunks

    def stored(self, last_batch: list[Frame]) -> Stored:
        """The whole payload, of which `last_batch` is still to be written."""
        fragments = {fragment: StoredFragment(*sizes) for fragment, sizes in self.sizes.items()}
        return Stored(self.first_chunk, self.first_chunk + self._written, last_batch, fragments, self.loose)

    def close(self) -> None:
        """Let go of the buffers that were given; a mapped file can be unmapped then."""
        self.frames.close()

    def add_batch(self, batch: list[Frame]) -> "AddBatch":
        """The operation that writes a batch which is not the last."""
        whole = (self.first_chunk, self.first_chunk + self.chunks - 1)
        operation = AddBatch(self.first_chunk + self._written, batch, whole, register=not self.loose)
        self._written += len(batch)
        self.loose = True
        return operation


@dataclass(frozen=True, slots=True)
class AddBatch:
    """Write frames of a payload that is still coming in; the first batch registers the range as loose."""

    first_chunk: int
    frames: list[Frame]
    loose_range: tuple[int, int]
    register: bool

    def __call__(self, transaction: Transaction) -> None:
        """One bounded transaction."""
        if self.register:
            transaction.execute(statements.ADD_LOOSE_CHUNKS, self.loose_range)
        else:
            still_loose(transaction, self.loose_range[0])
        write_frames(transaction, self.frames, self.first_chunk)


def total_chunks(fragments: Mapping[Fragment, Sequence[Buffer]]) -> int:
    """How many chunks the raw pieces of all fragments make."""
    return sum(chunk_count(sum(map(len, pieces))) for pieces in fragments.values())


def _frames(
    fragments: Mapping[Fragment, Sequence[Buffer]], frame_writer: FrameWriter
) -> Generator[tuple[Fragment, Frame], None, None]:
    for fragment, pieces in fragments.items():
        for frame in frame_writer.frames(pieces):
            yield fragment, frame

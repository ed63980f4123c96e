"""Payloads that are ready to be written, and small ones that are made so in the writer's thread, a group at once."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from spool.payloads import Frame, FrameWriter, described
from spool.records import Buffer, Fragment, StoredFragment


class Stored(Struct, frozen=True):
    """A payload that is ready to be accepted.

    `frames` are those still to be written, from `next_chunk` on; with `loose` the earlier ones of the range that
    begins at `first_chunk` are in the spool already.
    """

    first_chunk: int
    next_chunk: int
    frames: Sequence[Frame]
    fragments: Mapping[Fragment, StoredFragment]
    loose: bool

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frames."""
        return sum([fragment.stored_bytes for fragment in self.fragments.values()])


class Small(Struct):
    """A payload of which no fragment is larger than a frame, still to be compressed.

    On the event loop that would cost a tenth of a 2 KB post, and give up Python's lock in the middle of it.
    """

    first_chunk: int
    fragments: Mapping[Fragment, Sequence[Buffer]]
    stored: Stored | None = None
    """What the press made of it."""


class Press:
    """Compresses small payloads. For one thread: it keeps zstd's working memory."""

    def __init__(self, level: int) -> None:
        self._writer = FrameWriter(level)

    def compress(self, payloads: Iterable[Small]) -> None:
        """Make all of them ready that are not; one call for many, since each call gives Python's lock up."""
        new = [payload for payload in payloads if payload.stored is None]
        raws = [{fragment: _joined(pieces) for fragment, pieces in one.fragments.items()} for one in new]
        made = iter(self._writer.together([raw for own in raws for raw in own.values() if len(raw)]))
        for payload, own in zip(new, raws, strict=True):
            frames = {fragment: [next(made)] if len(raw) else [] for fragment, raw in own.items()}
            payload.stored = Stored(
                payload.first_chunk,
                payload.first_chunk,
                [frame for of_one in frames.values() for frame in of_one],
                {fragment: described(of_one) for fragment, of_one in frames.items()},
                loose=False,
            )


def _joined(pieces: Sequence[Buffer]) -> Buffer:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

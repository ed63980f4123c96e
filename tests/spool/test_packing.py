"""Small payloads, compressed a group at once: each as it would be by itself."""

import os

import pytest
from msgspec.structs import replace

from spool.payload.frames import BatchCompressor, Frame, FrameEncoder, SmallPayload
from spool.records import Buffer, Fragment, StoredFragment

BODIES: tuple[bytes, ...] = (b"{}", b"a" * 2_000, os.urandom(32 << 10))


def alone(raw: bytes, level: int = 1) -> Frame:
    """The frame of a payload by itself, with what it holds at hand."""
    (frame,) = FrameEncoder(level).frames([raw])
    return replace(frame, raw=raw)


def test_a_payload_is_stored_as_if_it_were_alone() -> None:
    """Frames, sizes and chunk ids are those of each payload by itself, in the order of its fragments."""
    payloads = [SmallPayload(10 * number, {Fragment.BODY: (body,)}) for number, body in enumerate(BODIES)]
    BatchCompressor(1).compress(payloads)
    for payload, body in zip(payloads, BODIES, strict=True):
        stored = payload.stored
        assert stored is not None
        assert list(stored.frames) == [alone(body)]
        assert stored.fragments == {Fragment.BODY: StoredFragment(1, len(body), len(alone(body).data))}
        assert (stored.first_chunk, stored.next_chunk, stored.orphaned) == (
            payload.first_chunk,
            payload.first_chunk,
            False,
        )


def test_pieces_are_joined_and_empty_fragments_have_no_frame() -> None:
    """A fragment in several pieces is one frame; one that holds nothing is described, and takes no chunk."""
    fragments: dict[Fragment, tuple[Buffer, ...]] = {
        Fragment.BASE: (b"one", memoryview(b"-two-")[1:4], bytearray(b"three")),
        Fragment.DERIVED: (b"",),
        Fragment.REST: (b"rest",),
    }
    payload = SmallPayload(0, fragments)
    BatchCompressor(1).compress([payload])
    assert payload.stored is not None
    frames = [alone(b"onetwothree"), alone(b"rest")]
    assert list(payload.stored.frames) == frames
    assert payload.stored.fragments[Fragment.DERIVED] == StoredFragment(0, 0, 0)
    assert payload.stored.stored_bytes == sum(len(frame.data) for frame in frames)


@pytest.mark.parametrize("level", [1, 3, 19])
def test_the_level_is_the_presss(level: int) -> None:
    """A press compresses at its own level."""
    body = b"".join(b'{"number": %d}' % number for number in range(500))
    payload = SmallPayload(0, {Fragment.BODY: (body,)})
    BatchCompressor(level).compress([payload])
    assert payload.stored is not None
    assert list(payload.stored.frames) == [alone(body, level)]


def test_what_is_compressed_stays_as_it_is() -> None:
    """A group that is written again, one by one, is not compressed again."""
    payload = SmallPayload(0, {Fragment.BODY: (b"body",)})
    press = BatchCompressor(1)
    press.compress([payload])
    before = payload.stored
    press.compress([payload])
    assert payload.stored is before
    press.compress([])

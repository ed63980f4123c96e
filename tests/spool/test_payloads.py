"""Payloads: what comes back is what went in, as independent zstd frames that join into one valid stream."""

import mmap
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from spool.payload.frames import FRAME_RAW_BYTES, Frame, FrameEncoder, chunk_count, chunk_range, cut
from spool.queue.ingest import INLINE_BYTES
from spool.records import Buffer, Fragment, StoredFragment
from spool.store import Spool
from tests.spool.spool_parts import a_record, decoded, opened, payload

MIB = 1 << 20


@given(pieces=st.lists(st.binary(max_size=40), max_size=8), size=st.integers(1, 17))
def test_cutting_keeps_every_byte(pieces: list[bytes], size: int) -> None:
    """The slices are the concatenation of the pieces, all but the last of the wanted size."""
    slices = [bytes(one) for one in cut(pieces, size)]
    assert b"".join(slices) == b"".join(pieces)
    assert all(len(one) == size for one in slices[:-1])
    assert all(0 < len(one) <= size for one in slices)
    assert len(slices) == -(-len(b"".join(pieces)) // size)


@pytest.mark.parametrize(
    "size",
    [0, 1, INLINE_BYTES, INLINE_BYTES + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7],
)
@pytest.mark.parametrize("compressible", [True, False], ids=["compressible", "random"])
async def test_what_comes_back_is_what_went_in(spool: Spool, size: int, compressible: bool) -> None:
    """Bodies of every size come back byte for byte, inline, in one transaction and in several."""
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size] if compressible else os.urandom(size)
    accepted = await spool.accept(a_record("c", body=body))
    record = accepted.ready[0].record
    assert record.fragments[Fragment.BODY].raw_bytes == record.raw_bytes == size
    assert record.fragments[Fragment.BODY].chunks == chunk_count(size)
    assert decoded(await payload(spool, accepted)) == body


@pytest.mark.parametrize("rest", [b"", b'"rest": 1', os.urandom(9 * MIB)], ids=["empty", "small", "giant"])
async def test_each_fragment_comes_back_alone(spool: Spool, rest: bytes) -> None:
    """A fragment is read without the others, and an empty one is there too."""
    pieces: dict[Fragment, list[Buffer]] = {
        Fragment.BASE: [b'"base": 1,', bytearray(b'"more": 2')],
        Fragment.DERIVED: [],
        Fragment.REST: [memoryview(rest)[: len(rest) // 3], memoryview(rest)[len(rest) // 3 :]],
    }
    accepted = await spool.accept(a_record("c", fragments=pieces))
    assert list(accepted.ready[0].record.fragments) == list(pieces)
    for fragment, parts in pieces.items():
        assert decoded(await payload(spool, accepted, fragment)) == b"".join(parts)
    assert await payload(spool, accepted, Fragment.BODY) == b""


async def test_each_frame_is_whole_and_bounded(spool: Spool) -> None:
    """A frame holds at most 1 MiB, says how much, and carries zstd's own checksum."""
    accepted = await spool.accept(a_record("c", body=os.urandom(2 * MIB + 5)))
    sizes = []
    async for frame in spool.frames(accepted.ready[0].record, Fragment.BODY):
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.has_checksum
        sizes.append(parameters.content_size)
    assert sizes == [MIB, MIB, 5]


async def test_a_mapped_file_can_be_unmapped_afterwards(spool: Spool, tmp_path: Path) -> None:
    """`accept` keeps no view of what it was given, also when it fails."""
    path = tmp_path / "staged"
    path.write_bytes(os.urandom(6 * MIB))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        accepted = await spool.accept(a_record("c", fragments={Fragment.BODY: [mapped]}))  # type: ignore[list-item]  # a buffer
        mapped.close()
    assert decoded(await payload(spool, accepted)) == path.read_bytes()


async def test_payloads_are_readable_after_a_restart_at_another_level(tmp_path: Path) -> None:
    """The compression level is no part of the format."""
    async with opened(tmp_path, compression_level=9) as spool:
        accepted = await spool.accept(a_record("c", body=b"abc" * 100_000))
    async with opened(tmp_path, compression_level=-5) as spool:
        assert decoded(await payload(spool, accepted)) == b"abc" * 100_000


def test_fragments_lie_one_after_the_other() -> None:
    """The chunk ids of a fragment follow from the sizes of those before it."""
    fragments = {Fragment.BASE: StoredFragment(2, 1, 1), Fragment.REST: StoredFragment(3, 1, 1)}
    assert chunk_range(10, fragments, Fragment.BASE) == range(10, 12)
    assert chunk_range(10, fragments, Fragment.REST) == range(12, 15)
    assert len(chunk_range(10, fragments, Fragment.BODY)) == 0


def test_a_frame_is_described_by_its_bytes() -> None:
    """A frame tells the raw size and the CRC-32 of its stored bytes."""
    (frame,) = FrameEncoder().frames([b"a" * FRAME_RAW_BYTES])
    assert isinstance(frame, Frame)
    assert frame.raw_bytes == FRAME_RAW_BYTES
    assert decoded(frame.data) == b"a" * FRAME_RAW_BYTES

"""Decoders, piece by piece."""

import base64
import gzip
import itertools
import random
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.intake.decoding import (
    ENVELOPE,
    Decoder,
    DecodingLimits,
    decode,
    decoders_for,
    expected_size,
    gunzip,
    inflate,
    unbase64,
    unquote,
    unzstd,
)
from gateway.intake.responses import Rejection
from tests.intake.bodies import raw_deflate

ENCODE: dict[Decoder, Callable[[bytes], bytes]] = {
    gunzip: gzip.compress,
    inflate: zlib.compress,
    unzstd: zstandard.ZstdCompressor().compress,
    unbase64: base64.b64encode,
}


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize("decoder", ENCODE, ids=lambda decoder: decoder.__name__)
@given(data=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 4000), max_size=8))
def test_the_cuts_do_not_matter(decoder: Decoder, data: bytes, cuts: list[int]) -> None:
    """What comes out is the same, wherever the pieces are cut, through empty ones too."""
    assert b"".join(decoder(iter(in_pieces(ENCODE[decoder](data), cuts)))) == data


@pytest.mark.parametrize("decoder", [gunzip, inflate, unzstd], ids=lambda decoder: decoder.__name__)
@given(st.data())
def test_every_truncation_is_found(decoder: Decoder, data: st.DataObject) -> None:
    """No proper beginning of encoded data passes for all of it."""
    encoded = ENCODE[decoder](data.draw(st.binary(max_size=500)))
    kept = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(Rejection) as rejection:
        b"".join(decoder(iter([encoded[:kept]])))
    assert rejection.value.status == 400


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "zstd", "gzip, zstd", "deflate, gzip"]))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes, encoding: str) -> None:
    """Arbitrary bytes decode or are refused with 400."""
    status = 0
    try:
        b"".join(decode(noise, decoders_for(encoding), DecodingLimits()))
    except Rejection as rejection:
        status = rejection.status
    assert status in {0, 400}


@given(text=st.text('abc+/\\u0029="nd', max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_escapes_are_undone_wherever_they_are_cut(text: str, cuts: list[int]) -> None:
    """An escape that lies across two pieces is understood, a broken one refused."""
    whole = text.encode()
    try:
        expected = b"".join(unquote(iter([whole])))
    except Rejection:
        with pytest.raises(Rejection):
            b"".join(unquote(iter(in_pieces(whole, cuts))))
    else:
        assert b"".join(unquote(iter(in_pieces(whole, cuts)))) == expected


@pytest.mark.parametrize(
    ("escaped", "plain"), [(rb"a\/b", b"a/b"), (rb"\u002b\u002F", b"+/"), (b"plain", b"plain"), (b"", b"")]
)
def test_escapes_of_base64(escaped: bytes, plain: bytes) -> None:
    """The escapes that encoders put into base64 are undone."""
    assert b"".join(unquote(iter([escaped]))) == plain


@pytest.mark.parametrize(
    ("data", "decoders", "size"),
    [
        (gzip.compress(b"x" * 5000, mtime=0), (gunzip,), 5000),
        (zstandard.ZstdCompressor().compress(b"x" * 5000), (unzstd,), 5000),
        (base64.b64encode(gzip.compress(b"x" * 5000, mtime=0)), ENVELOPE, 5000),
        (base64.b64encode(gzip.compress(b"x" * 5001, mtime=0)), ENVELOPE, 5001),
        (raw_deflate(b"x" * 5000), (inflate,), 8 * len(raw_deflate(b"x" * 5000))),
        (b"", (gunzip,), 0),
        (b"!!!!", ENVELOPE, 32),
        (b"garbage", (unzstd,), 56),
    ],
)
def test_the_size_that_data_promises(data: bytes, decoders: tuple[Decoder, ...], size: int) -> None:
    """Memory is reserved by what the data says of itself, or by the usual ratio where it says nothing."""
    assert expected_size(data, decoders) == size


def test_output_comes_in_bounded_pieces() -> None:
    """However well something compresses, no piece that is held at once is large."""
    zeros = b"\0" * 30_000_000
    limits = DecodingLimits(decoded_ratio_max=1_000_000)
    for encoded, decoder in ((gzip.compress(zeros), gunzip), (zlib.compress(zeros), inflate)):
        assert max(map(len, decode(encoded, [decoder], limits))) <= 256 * 1024


def test_a_zstd_bomb_ends_early() -> None:
    """Zstd's ratio of 30,000 to 1 is noticed within one slice of it."""
    compressor = zstandard.ZstdCompressor().compressobj()
    bomb = b"".join(compressor.compress(b"\0" * (1 << 20)) for _ in range(500)) + compressor.flush()
    with pytest.raises(Rejection, match="times its size"):
        b"".join(decode(bomb, [unzstd], DecodingLimits(decoded_max=32 << 20)))


def test_a_window_larger_than_the_standard_s_is_refused() -> None:
    """A frame that would need more than 8 MiB of memory to decode is refused (RFC 9659)."""
    parameters = zstandard.ZstdCompressionParameters(window_log=25)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(random.Random(1).randbytes(1_000_000)) + compressor.flush()
    with pytest.raises(Rejection, match="window of 33554432 bytes; RFC 9659 allows 8388608") as rejection:
        b"".join(decode(data, [unzstd], DecodingLimits()))
    assert (rejection.value.status, rejection.value.code) == (415, "window_too_large")


@pytest.mark.parametrize("padding", [b"\0" * 7, b"\0" * 70_000, b"\n", b"\r\n", b" \t\n\0"], ids=repr)
@pytest.mark.parametrize("decoder", [gunzip, inflate, unzstd], ids=lambda decoder: decoder.__name__)
@pytest.mark.parametrize("cut", [1, 512, 1 << 20])
def test_padding_after_the_end_is_ignored(decoder: Decoder, padding: bytes, cut: int) -> None:
    """Zeros and a line break after the encoded data change nothing, wherever the pieces are cut."""
    data = b'{"call_id": "a"}' * 50
    encoded = ENCODE[decoder](data) + padding
    pieces = (encoded[start : start + cut] for start in range(0, len(encoded), cut))
    assert b"".join(decoder(pieces)) == data


@pytest.mark.parametrize("decoder", [gunzip, unzstd], ids=lambda decoder: decoder.__name__)
def test_members_may_be_padded(decoder: Decoder) -> None:
    """Another member or frame after padding belongs to the body."""
    encode = ENCODE[decoder]
    assert b"".join(decoder(iter([encode(b"a") + b"\0\0\n" + encode(b"b")]))) == b"ab"


@pytest.mark.parametrize("decoder", [gunzip, inflate, unzstd], ids=lambda decoder: decoder.__name__)
@pytest.mark.parametrize("rest", [b"x", b"\0\0x", b"\n{"], ids=repr)
def test_anything_else_after_the_end_is_refused(decoder: Decoder, rest: bytes) -> None:
    """What is neither padding nor a further member was cut off or mixed up on its way."""
    with pytest.raises(Rejection) as rejection:
        b"".join(decoder(iter([ENCODE[decoder](b"a" * 100) + rest])))
    assert rejection.value.status == 400


@pytest.mark.parametrize("line", [4, 76, 7])
def test_base64_may_have_line_breaks(line: int) -> None:
    """MIME's lines, of any length, and a line break at the end."""
    data = random.Random(1).randbytes(1000)
    encoded = base64.b64encode(data)
    lines = b"".join(encoded[start : start + line] + b"\r\n" for start in range(0, len(encoded), line))
    assert b"".join(unbase64(iter([lines[:501], lines[501:]]))) == data


@pytest.mark.parametrize(
    ("content", "transfer", "expected"),
    [
        ("gzip", "", (gunzip,)),
        ("gzip, zstd", "", (unzstd, gunzip)),
        ("gzip", "chunked", (gunzip,)),
        ("", "gzip, chunked", (gunzip,)),
        ("zstd", "gzip, chunked", (gunzip, unzstd)),
        ("identity", "Chunked", ()),
        ("gzip, ,identity", "", (gunzip,)),
    ],
)
def test_all_codings_are_undone_in_order(content: str, transfer: str, expected: tuple[Decoder, ...]) -> None:
    """The last coding that was applied comes off first, and those of the transfer before those of the content."""
    assert decoders_for(content, transfer) == expected


@pytest.mark.parametrize(("content", "transfer", "status"), [("br", "", 415), ("", "compress, chunked", 501)])
def test_a_coding_that_is_not_known_is_refused(content: str, transfer: str, status: int) -> None:
    """RFC 9110 has 415 for the content, RFC 9112 501 for the transfer."""
    with pytest.raises(Rejection) as rejection:
        decoders_for(content, transfer)
    assert (rejection.value.status, rejection.value.code) == (status, "unknown_encoding")


def test_the_ratio_counts_only_beyond_the_first_mebibyte() -> None:
    """A short, dull call log compresses better than any limit and is taken."""
    dull = b" " * (1 << 20)
    limits = DecodingLimits(decoded_ratio_max=1)
    assert b"".join(decode(gzip.compress(dull), [gunzip], limits)) == dull
    with pytest.raises(Rejection, match="times its size"):
        b"".join(decode(gzip.compress(dull + b" "), [gunzip], limits))

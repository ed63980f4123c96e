"""Content codings: a body is decoded from gzip, zstd, deflate, or the base64 of an envelope, piece by piece.

Each decoder maps an iterator of pieces to another one, so that decoders can be chained, hold little whatever the size,
and stop when their consumer does. All run in any thread; zlib and zstd release the interpreter lock. Data that is not
in its coding raises `Rejection` (400) with the offset in the data that this decoder was given.
"""

import binascii
import contextlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import zstandard
from aiohttp import web

from gateway.intake.memory import SMALL_POST_BYTES, Body, MemoryBudget, Reservation
from gateway.intake.responses import Rejection, bad_encoding, too_large
from gateway.intake.staging import StagedFile, StagingArea
from gateway.intake.turns import TURN_SECONDS, Threads, sender_of

Pieces = Iterator[bytes | memoryview]
Decoder = Callable[[Pieces], Pieces]

SLICE = 64 * 1024
"""Encoded bytes that a decoder gets at once."""
_OUTPUT = 256 * 1024
_ZSTD_SLICE = 512
"""The zstd decoder has no limit on its output; 512 bytes of input can make 16 MiB, and no more."""
ZSTD_WINDOW_MAX = 8 << 20
"""The largest window that a sender of `Content-Encoding: zstd` may use (RFC 9659): memory that no budget covers."""
_ZSTD_HEADER = 18
"""The longest frame header (RFC 8878)."""
_CODINGS_MAX = 4
_KNOWN_CODINGS = "Use gzip, zstd, deflate, or no Content-Encoding."
_USUAL_RATIO = 8
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
_PADDING = b"\0\r\n\t "
"""What may follow the end of encoded data: zeros, as tapes and some uploaders pad, and a line break."""
_PARTS_FREE = 1000
_BYTES_PER_PART = 256
"""Members of gzip and frames of zstd cost some 10 us each, whatever is in them; bgzip's have 1 KB or more."""
_ESCAPE = 6
"""The length of the longest escape in a JSON text, backslash-u and four digits."""


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """What a body may decode to.

    Real call logs compress up to 100 to 1, so the ratio is far above that and counts only beyond the first MiB.
    """

    decoded_max: int = 4 << 30
    decoded_ratio_max: int = 1000
    ratio_free_bytes: int = 1 << 20


def slices(data: memoryview | bytes) -> Iterator[memoryview]:
    """`data` in slices of at most `SLICE` bytes."""
    view = memoryview(data)
    return (view[start : start + SLICE] for start in range(0, len(view), SLICE))


def expected_size(data: memoryview | bytes, decoders: Sequence[Decoder]) -> int:
    """The decoded size by the data's own account: an estimate for reserving memory, never relied on."""
    guess = len(data) * _USUAL_RATIO
    if decoders == (gunzip,):
        return _gzip_size(bytes(data[-4:])) or guess
    if decoders == ENVELOPE:
        with contextlib.suppress(binascii.Error):
            return _gzip_size(binascii.a2b_base64(data[-8:])[-4:]) or guess
    if decoders == (unzstd,):
        with contextlib.suppress(zstandard.ZstdError):
            return max(zstandard.frame_content_size(bytes(data[:_ZSTD_HEADER])), 0) or guess
    return guess


def decoders_for(content_encoding: str, transfer_encoding: str = "") -> tuple[Decoder, ...]:
    """The decoders that undo these headers, in the order in which they must work: transfer codings come off first.

    Raises `Rejection` for a coding that is not known here (415, of the transfer 501), and for more than four of them.
    """
    codings = [*_codings(content_encoding), *_codings(transfer_encoding)]
    if codings[-1:] == ["chunked"]:  # undone by the HTTP parser, whose message framing it is
        codings.pop()
    if len(codings) > _CODINGS_MAX:
        raise Rejection(415, "unknown_encoding", "The body has too many encodings.", _KNOWN_CODINGS)
    unknown = next((name for name in codings if name not in _DECODERS), None)
    if unknown is not None:
        status = 415 if unknown in _codings(content_encoding) else 501
        what = f"The body has an encoding that is not known here: {unknown[:40]}."
        raise Rejection(status, "unknown_encoding", what, _KNOWN_CODINGS)
    return tuple(_DECODERS[name] for name in reversed(codings))


def decoders_by_magic(head: bytes) -> tuple[Decoder, ...]:
    """What undoes the compression that a body's first four bytes show; JSON begins like none of them."""
    return next((decoders for magic, decoders in _BY_MAGIC.items() if head.startswith(magic)), ())


def _codings(header: str) -> list[str]:
    """The codings that a header lists, in the order in which they were applied."""
    names = [name.strip().lower() for name in header.split(",")]
    return [name for name in names if name not in {"", "identity"}]


def decode(data: memoryview | bytes, decoders: Iterable[Decoder], limits: DecodingLimits) -> Pieces:
    """Apply decoders one after the other, each within the limits.

    Raises `Rejection`: 400 for wrong or truncated data and for a bomb, 413 above `decoded_max`.
    """
    pieces: Pieces = slices(data)
    for decoder in decoders:
        pieces = _bounded(decoder(pieces), len(data), limits)
    return pieces


def gunzip(pieces: Pieces) -> Pieces:
    """Undo gzip; several members are one body (RFC 1952), and zeros and blanks after one are ignored."""
    return _inflate(pieces, _GZIP, "gzip")


def inflate(pieces: Pieces) -> Pieces:
    """Undo deflate, with the zlib header that RFC 9110 asks for or without, as some send it."""
    head = b""
    for piece in pieces:
        head += bytes(piece)
        if len(head) > 1:
            break
    if not head:
        raise bad_encoding("The deflate data is empty", 0)
    has_header = len(head) > 1 and head[0] & 15 == 8 and (head[0] << 8 | head[1]) % 31 == 0
    yield from _inflate(_again(head, pieces), _ZLIB if has_header else _RAW_DEFLATE, "deflate")


def unzstd(pieces: Pieces) -> Pieces:
    """Undo zstd; several frames one after the other are one body."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
    frame, position, header, parts = decompressor.decompressobj(), 0, b"", 1
    for piece in pieces:
        for start in range(0, len(piece), _ZSTD_SLICE):
            data = bytes(piece[start : start + _ZSTD_SLICE])
            position += len(data)
            while data:
                if frame.eof:
                    data = data.lstrip(_PADDING)
                    if not data:
                        break
                    parts += 1
                    _check_parts(parts, position)
                    frame, header = decompressor.decompressobj(), b""
                header += data[: _ZSTD_HEADER - len(header)]
                try:
                    output = frame.decompress(data)
                except zstandard.ZstdError as error:
                    _check_window(header)
                    raise bad_encoding(f"The zstd data is wrong: {error}", position - len(data)) from None
                yield output
                data = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise bad_encoding("The zstd data ends too early", position)


def _check_window(header: bytes) -> None:
    """Raise `Rejection` where a frame with this header was refused because of its window."""
    try:
        window = zstandard.get_frame_parameters(header).window_size
    except zstandard.ZstdError:
        return
    if window > ZSTD_WINDOW_MAX:
        raise Rejection(
            415,
            "window_too_large",
            f"The zstd data needs a window of {window} bytes; RFC 9659 allows {ZSTD_WINDOW_MAX}.",
            "Compress without --long, or with a window log of 23 at most.",
        )


def unbase64(pieces: Pieces) -> Pieces:
    """Undo base64 with padding; line breaks in it are ignored, as MIME has it."""
    carried, position, ended = b"", 0, False
    for piece in pieces:
        data = carried + bytes(piece)
        if b"\n" in data:
            data = data.translate(None, b"\r\n")
        whole = len(data) // 4 * 4
        if whole and ended:
            raise bad_encoding("The base64 continues after its end", position)
        try:
            yield binascii.a2b_base64(data[:whole], strict_mode=True)
        except binascii.Error:
            raise bad_encoding("The base64 is wrong", position) from None
        ended = ended or data[:whole].endswith(b"=")
        position += whole
        carried = data[whole:]
    if carried:
        raise bad_encoding("The base64 ends too early", position)


def unquote(pieces: Pieces) -> Pieces:
    r"""The ASCII text of the inside of a JSON string; some encoders write `\/` or `\u002b` into base64."""
    carried = b""
    for piece in pieces:
        data = carried + bytes(piece)
        cut = _before_open_escape(data)
        carried = data[cut:]
        yield _unescape(data[:cut])
    yield _unescape(carried)


ENVELOPE: tuple[Decoder, ...] = (unquote, unbase64, gunzip)
"""What undoes the inside of an envelope's `data`."""


def _gzip_size(trailer: bytes) -> int:
    """The length of what a gzip member holds, modulo 4 GiB: its last four bytes (RFC 1952)."""
    return int.from_bytes(trailer, "little") if len(trailer) == 4 else 0


def _before_open_escape(text: bytes) -> int:
    """Where the last escape begins, if it may go on behind the end of `text`; the length of `text` if not."""
    last = text.rfind(b"\\", max(0, len(text) - _ESCAPE))
    first = last
    while first > 0 and text[first - 1] == ord("\\"):
        first -= 1
    in_pairs = (last - first) % 2 == 1
    return len(text) if last < 0 or in_pairs else last


def _unescape(text: bytes) -> bytes:
    if b"\\" not in text and b'"' not in text:
        return text
    try:
        return msgspec.json.decode(b'"%b"' % text, type=str).encode()
    except msgspec.DecodeError:
        raise bad_encoding("The base64 contains invalid characters", 0) from None


def _inflate(pieces: Pieces, window: int, name: str) -> Pieces:
    decoder, position, parts = zlib.decompressobj(window), 0, 1
    for piece in pieces:
        data = piece
        while True:
            if decoder.eof:
                stripped = bytes(data).lstrip(_PADDING)
                position += len(data) - len(stripped)
                data = stripped
                if not data:
                    break
                if window != _GZIP:
                    raise bad_encoding(f"The {name} data continues after its end", position)
                parts += 1
                _check_parts(parts, position)
                decoder = zlib.decompressobj(window)
            try:
                output = decoder.decompress(data, _OUTPUT)
            except zlib.error as error:
                raise bad_encoding(f"The {name} data is wrong: {error}", position) from None
            yield output
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            position += len(data) - len(rest)
            data = rest
            if not data and len(output) < _OUTPUT:
                break
    if not decoder.eof:
        raise bad_encoding(f"The {name} data ends too early", position)


def _check_parts(parts: int, position: int) -> None:
    """Return if the encoded data up to `position` may consist of so many parts; raises `Rejection` (413) otherwise."""
    if parts > _PARTS_FREE and parts * _BYTES_PER_PART > position:
        raise Rejection(
            413,
            "too_complex",
            f"The body consists of {parts} parts of less than {_BYTES_PER_PART} bytes each that were compressed apart.",
            "Compress the call log as a whole.",
        )


def _bounded(pieces: Pieces, encoded_size: int, limits: DecodingLimits) -> Pieces:
    """Enforce the limits on what a decoder gives."""
    ratio_limit = max(limits.ratio_free_bytes, limits.decoded_ratio_max * encoded_size)
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limits.decoded_max:
            raise too_large(limits.decoded_max)
        if total > ratio_limit:
            raise Rejection(
                400,
                "decompression_bomb",
                f"The body decodes to more than {limits.decoded_ratio_max} times its size.",
                "Send the call log with less compression, or without.",
            )
        yield piece


def _again(first: bytes, rest: Pieces) -> Pieces:
    yield first
    yield from rest


_DECODERS: dict[str, Decoder] = {
    "gzip": gunzip,
    "x-gzip": gunzip,
    "deflate": inflate,
    "zstd": unzstd,
}
_BY_MAGIC: dict[bytes, tuple[Decoder, ...]] = {b"\x1f\x8b": (gunzip,), b"\x28\xb5\x2f\xfd": (unzstd,)}
"""By the magic numbers of RFC 1952 and RFC 8878."""


# Decodes a complete body into memory if that is free, else into a staging file, without waiting.

_INLINE_DECODED = 256 * 1024
"""The largest output that is decoded on the event loop: about 0.5 ms of gzip."""


class _NoRoom(Exception):
    """The decoded form is larger than announced, and may not spill to a file."""


class BodyDecoder:
    """Makes a decoded body from an encoded one. For the event loop.

    The encoded bytes hold memory already, so the decoded form must not wait for more: it uses what is free at that
    moment, or else spills to a file.
    """

    def __init__(
        self, limits: DecodingLimits, inline_max: int, budget: MemoryBudget, staging: StagingArea, threads: Threads
    ) -> None:
        self._limits = limits
        self._inline_max = inline_max
        self._budget = budget
        self._staging = staging
        self._threads = threads

    async def decode(
        self, data: bytes | bytearray | memoryview, decoders: tuple[Decoder, ...], request: web.BaseRequest | None
    ) -> Body:
        """The decoded body, which the caller must release. `data` must not change meanwhile.

        It is decoded in turns with the bodies of other senders; `request` says whose it is.
        Raises `Rejection` for data that is wrong or decodes to too much, `SpoolFull` and `OSError` from staging.
        """
        view = memoryview(data)
        expected = expected_size(view, decoders)
        if len(view) <= SMALL_POST_BYTES and expected <= _INLINE_DECODED:
            body = self._decode_inline(view, decoders, expected)
            if body is not None:
                return body
        reservation = self._try_reserve(expected)
        staged = self._staging.begin()
        try:
            memory = expected if reservation else 0
            collected = _Collected(decode(view, decoders, self._limits), memory, staged.file)
            sender = sender_of(request)
            while not await self._threads.run(sender, collected.advance):
                continue
            decoded, file = collected.data, collected.file
        except BaseException:
            _release(reservation)
            staged.discard()
            raise
        if reservation is not None:
            reservation.shrink(len(decoded) if file is None else 0)
        return Body(decoded, reservation, staged, file)

    def _decode_inline(self, view: memoryview, decoders: tuple[Decoder, ...], expected: int) -> Body | None:
        """The decoded body, if it is as small as announced and memory is free for it. Uses no thread."""
        reservation = self._try_reserve(expected)
        if reservation is None:
            return None
        try:
            collected = _Collected(decode(view, decoders, self._limits), expected, _no_file)
            while not collected.advance():
                continue
            decoded = collected.data
        except _NoRoom:
            reservation.release()
            return None
        except BaseException:
            reservation.release()
            raise
        reservation.shrink(len(decoded))
        return Body(decoded, reservation, self._staging.begin())

    def _try_reserve(self, size: int) -> Reservation | None:
        if size > self._inline_max or size > self._budget.largest:
            return None
        return self._budget.try_reserve(size)


class _Collected:
    """The pieces of a decoded body, as one buffer of up to `memory` bytes, or, beyond that, as the map of a file.

    To be used in one thread at a time.
    """

    def __init__(self, pieces: Pieces, memory: int, new_file: Callable[[], StagedFile]) -> None:
        self.data = memoryview(b"")
        """The decoded body, once it is complete."""
        self.file: StagedFile | None = None
        """What `data` is a map of, if it is."""
        self._pieces = pieces
        self._memory = memoryview(bytearray(memory))
        self._filled = 0
        self._new_file = new_file

    def advance(self) -> bool:
        """Decode for a turn; returns whether the body is complete."""
        ends_at = time.monotonic() + TURN_SECONDS
        for piece in self._pieces:
            self._add(piece)
            if time.monotonic() >= ends_at:
                return False
        self.data = self._memory[: self._filled] if self.file is None else self.file.map()
        return True

    def _add(self, piece: bytes | memoryview) -> None:
        end = self._filled + len(piece)
        if self.file is None and end <= len(self._memory):
            self._memory[self._filled : end] = piece
            self._filled = end
            return
        if self.file is None:
            self.file = self._new_file()
            self.file.write(self._memory[: self._filled])
            self._memory = memoryview(b"")
        self.file.write(piece)


def _no_file() -> StagedFile:
    raise _NoRoom


def _release(reservation: Reservation | None) -> None:
    if reservation is not None:
        reservation.release()

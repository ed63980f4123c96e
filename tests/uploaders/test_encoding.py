"""Bodies: every encoding decodes to the same document, with bounded memory."""

import asyncio
import base64
import gc
import gzip
import json
import mmap
import random
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zstandard

from spool.errors import CorruptPayload
from spool.payload.frames import decode
from spool.records import Delivery, Form, Fragment, Record
from tests.spool.spool_parts import decoded as unzstd
from tests.uploaders.deliveries import Payloads, a_delivery, a_record, large_fragments
from uploaders.document import body as spilling
from uploaders.document.body import BodyRoom, TooLarge
from uploaders.document.encoding import AUTO_PLAIN_BYTES, EncodedBody, encode
from uploaders.document.options import Encoding

LIMIT = 64 << 20


def decoded(body: EncodedBody) -> bytes:
    """What an endpoint makes of the body."""
    data = body.data.tobytes()
    assert len(data) == body.size
    if body.content_encoding == "gzip":
        return gzip.decompress(data)
    if body.content_encoding == "zstd":
        return unzstd(data)
    if data.startswith(b'{"compressed": true'):
        return gzip.decompress(base64.b64decode(json.loads(data)["data"], validate=True))
    return data


def words(length: int, seed: int = 1) -> bytes:
    """Text that compresses about two to one, as transcripts do."""
    return random.Random(seed).randbytes((length + 1) // 2).hex()[:length].encode()


def a_large_delivery(payloads: Payloads, rest_bytes: int, form: Form = Form.DETAIL) -> Delivery:
    rest = b'"telemetry_data": "' + words(rest_bytes) + b'"'
    return a_delivery(a_record(payloads, fragments=large_fragments(rest)), form)


@pytest.mark.parametrize("rest_bytes", [0, 1, 2, 3, 1000, 70_000, 3 << 20])
@pytest.mark.parametrize("encoding", list(Encoding))
async def test_every_encoding_decodes_to_the_document(encoding: Encoding, rest_bytes: int) -> None:
    """A body decodes to exactly the joined document, whatever its size and encoding, on and off the event loop."""
    payloads = Payloads()
    delivery = a_large_delivery(payloads, rest_bytes)
    plain = decoded(await encode(delivery, payloads.frames, Encoding.IDENTITY, BodyRoom(LIMIT)))
    assert json.loads(plain)["telemetry_data"] == words(rest_bytes).decode()
    assert decoded(await encode(delivery, payloads.frames, encoding, BodyRoom(LIMIT))) == plain


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_encoding_twice_gives_the_same_bytes(encoding: Encoding) -> None:
    """Every attempt at a delivery sends the same bytes under the same key."""
    payloads = Payloads()
    delivery = a_large_delivery(payloads, 2 << 20)
    first = await encode(delivery, payloads.frames, encoding, BodyRoom(LIMIT))
    second = await encode(delivery, payloads.frames, encoding, BodyRoom(LIMIT))
    assert first.data.tobytes() == second.data.tobytes()


async def test_gzip_carries_no_time() -> None:
    """The gzip header's modification time is zero."""
    payloads = Payloads()
    body = await encode(a_large_delivery(payloads, 100), payloads.frames, Encoding.GZIP, BodyRoom(LIMIT))
    assert body.data.tobytes()[4:8] == bytes(4)


async def test_zstd_sends_the_stored_frames_untouched() -> None:
    """Frames that are stored compressed are not compressed again: they stand in the body as they are."""
    payloads = Payloads()
    delivery = a_large_delivery(payloads, 3 << 20)
    body = (await encode(delivery, payloads.frames, Encoding.ZSTD, BodyRoom(LIMIT))).data.tobytes()
    stored = [frame async for frame in payloads.frames(delivery.record, Fragment.REST)]
    assert len(stored) == 4
    assert b"".join(stored) in body


@pytest.mark.parametrize(
    ("raw_bytes", "enveloped"), [(2000, False), (AUTO_PLAIN_BYTES, False), (AUTO_PLAIN_BYTES + 1, True)]
)
async def test_auto_is_plain_up_to_10_kb_and_the_envelope_above(raw_bytes: int, enveloped: bool) -> None:
    """The default encoding does what the SDK does."""
    payloads = Payloads()
    delivery = a_delivery(a_record(payloads, fragments={Fragment.BODY: b"{" + b" " * (raw_bytes - 2) + b"}"}))
    body = await encode(delivery, payloads.frames, Encoding.AUTO, BodyRoom(LIMIT))
    assert ("compressed" in json.loads(body.data.tobytes())) is enveloped
    assert body.content_encoding is None


@pytest.mark.parametrize(
    ("encoding", "in_memory", "threads"),
    [
        pytest.param(Encoding.ZSTD, LIMIT, 0, id="stored frames are only copied"),
        pytest.param(Encoding.ZSTD, 1 << 20, 2, id="but a file may be slow"),
        pytest.param(Encoding.IDENTITY, LIMIT, 3, id="each frame is decompressed"),
    ],
)
async def test_threads_do_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, encoding: Encoding, in_memory: int, threads: int
) -> None:
    """What a frame costs decides: a copy in memory is made at once, for a thread would take longer to ask."""
    asked = 0
    to_thread = asyncio.to_thread

    async def counted(function: Callable[[bytes], None], frame: bytes) -> None:
        nonlocal asked
        asked += 1
        await to_thread(function, frame)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    monkeypatch.setattr(spilling, "IN_MEMORY_BYTES", in_memory)
    payloads = Payloads()
    body = a_record(payloads, fragments={Fragment.BODY: words(5 << 19)})
    await encode(a_delivery(body), payloads.frames, encoding, BodyRoom(LIMIT))
    assert asked == threads


async def test_the_envelope_tells_its_sizes() -> None:
    """The envelope names the raw length, the length of its base64, and how many percent that saved, as the SDK does."""
    payloads = Payloads()
    delivery = a_large_delivery(payloads, 100_000)
    plain = (await encode(delivery, payloads.frames, Encoding.IDENTITY, BodyRoom(LIMIT))).size
    envelope = json.loads((await encode(delivery, payloads.frames, Encoding.ENVELOPE, BodyRoom(LIMIT))).data.tobytes())
    assert envelope["original_size"] == plain
    assert envelope["compressed_size"] == len(envelope["data"])
    assert envelope["compression_ratio"] == pytest.approx((1 - len(envelope["data"]) / plain) * 100, abs=1e-4)


@pytest.mark.parametrize("encoding", list(Encoding))
async def test_the_limit_is_exact(encoding: Encoding) -> None:
    """A body of exactly the limit is made, one byte less is too large."""
    payloads = Payloads()
    record = a_record(payloads, fragments={Fragment.BODY: random.Random(5).randbytes(40_000).hex().encode()})
    size = (await encode(a_delivery(record), payloads.frames, encoding, BodyRoom(LIMIT))).size
    smallest = size
    if encoding not in {Encoding.IDENTITY, Encoding.ZSTD}:
        with pytest.raises(TooLarge) as caught:
            await encode(a_delivery(record), payloads.frames, encoding, BodyRoom(size // 2))
        assert caught.value.max_bytes == size // 2
        return
    assert (await encode(a_delivery(record), payloads.frames, encoding, BodyRoom(smallest))).size == smallest
    with pytest.raises(TooLarge):
        await encode(a_delivery(record), payloads.frames, encoding, BodyRoom(smallest - 1))


@pytest.mark.parametrize(("encoding", "most_frames"), [(Encoding.IDENTITY, 0), (Encoding.ZSTD, 4), (Encoding.GZIP, 8)])
async def test_a_body_that_cannot_fit_is_given_up_early(encoding: Encoding, most_frames: int) -> None:
    """Reading stops as soon as the limit is passed, so a giant costs no more than a body of the limit."""
    payloads = Payloads()
    delivery = a_large_delivery(payloads, 12 << 20)
    payloads.frames_read = 0
    with pytest.raises(TooLarge):
        await encode(delivery, payloads.frames, encoding, BodyRoom(1 << 20))
    assert payloads.frames_read <= most_frames


async def test_a_body_the_fast_compressor_leaves_too_large_is_made_smaller() -> None:
    """Before a body counts as too large, the slower and smaller compressor has been tried."""
    payloads = Payloads()
    turn = json.dumps({"system": words(4000).decode(), "spans": [words(60, seed).decode() for seed in range(90)]})
    body = b"[" + b",".join([turn.encode()] * 60) + b"]"
    delivery = a_delivery(a_record(payloads, fragments={Fragment.BODY: body}))
    fast = (await encode(delivery, payloads.frames, Encoding.GZIP, BodyRoom(LIMIT))).size
    smaller = await encode(delivery, payloads.frames, Encoding.GZIP, BodyRoom(fast - 1))
    assert smaller.size < fast
    assert zlib.decompress(smaller.data.tobytes(), 31) == body


@pytest.mark.parametrize("frame", [b"", b"not a frame", b"\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00hel"])
async def test_a_broken_frame_is_a_corrupt_payload(frame: bytes) -> None:
    """A frame that cannot be decompressed is reported as corrupt, never sent in part."""

    async def frames(_record: Record, _fragment: Fragment) -> AsyncIterator[bytes]:
        yield frame

    with pytest.raises(CorruptPayload):
        await encode(a_delivery(), frames, Encoding.IDENTITY, BodyRoom(LIMIT))


def test_a_frame_that_claims_to_be_huge_is_not_believed() -> None:
    """A frame whose header claims more than a chunk can hold is refused before memory is given for it."""
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    with pytest.raises(CorruptPayload, match="claims"):
        decode(bomb)


@pytest.mark.parametrize("encoding", Encoding)
async def test_a_large_body_is_made_in_a_file(
    encoding: Encoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the usual size a body lies in a file without a name, and holds the same bytes."""
    payloads = Payloads()
    delivery = a_large_delivery(payloads, 300_000)
    in_memory = (await encode(delivery, payloads.frames, encoding, BodyRoom(LIMIT))).data.tobytes()
    monkeypatch.setattr(spilling, "IN_MEMORY_BYTES", 1000)
    body = await encode(delivery, payloads.frames, encoding, BodyRoom(LIMIT, tmp_path))
    assert isinstance(body.data.obj, mmap.mmap)
    assert (body.data.tobytes(), body.size) == (in_memory, len(in_memory))
    assert not list(tmp_path.iterdir())


async def test_a_released_large_body_is_no_longer_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is gone with it; where somebody still holds a part, that part stays as it is."""
    monkeypatch.setattr(spilling, "IN_MEMORY_BYTES", 1000)
    payloads = Payloads()
    delivery = a_large_delivery(payloads, 300_000)
    room = BodyRoom(LIMIT, tmp_path)
    body, held = [await encode(delivery, payloads.frames, Encoding.ZSTD, room) for _ in range(2)]
    part, expected = held.data[:100], held.data[:100].tobytes()
    maps = [body.data.obj, held.data.obj]
    for one in (body, held):
        await one.release()
    assert [isinstance(one, mmap.mmap) and one.closed for one in maps] == [True, False]
    assert part.tobytes() == expected


async def test_a_large_body_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file cannot be made, that is an error of the disk."""
    payloads = Payloads()
    monkeypatch.setattr(spilling, "IN_MEMORY_BYTES", 1000)
    with pytest.raises(FileNotFoundError):
        await encode(
            a_large_delivery(payloads, 300_000), payloads.frames, Encoding.ZSTD, BodyRoom(LIMIT, tmp_path / "missing")
        )


def test_a_body_and_its_view_may_go_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector frees a body that is part of a cycle while there still is a view of it."""
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    buffer = spilling.SpillingBuffer(None)
    buffer.write(b"x" * 100)
    cycle: list[object] = [buffer, buffer.view()]
    cycle.append(cycle)
    del buffer, cycle
    gc.collect()
    assert not complaints

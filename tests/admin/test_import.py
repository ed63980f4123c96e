"""Dead letters as files over a real socket: what is exported can be imported; what is wrong with that is told."""

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import zstandard

from gateway.operations import export
from gateway.operations.schemas import IMPORT_TYPE
from spool.records import DeadLetter, DeliveryState, OwnedCall
from tests.admin.admin_app import OTHER, AskedSpoolAdmin
from tests.spool.spool_parts import BUCKET, CORE, ENDPOINT, WHOLE, a_record, states
from tests.spool.spool_parts import DETAIL as DETAIL_FORM
from tests.system.waiting import until

DETAIL = b'{"call_id": "a", "update_type": "detailed_telemetry","rest": 1}'
NUMBER = b'{"call_id": 7, "update_type": "detailed_telemetry","rest": 1}'


def a_body(*documents: tuple[str, bytes], packed: bool = True, cut: int = 0, **fields: object) -> bytes:
    """A call log as it is brought in."""
    files = [zstandard.compress(document) if packed else document for _, document in documents]
    described = [
        {"form": form, "bytes": len(file), "sha256": sha256(file).hexdigest()}
        for (form, _), file in zip(documents, files, strict=True)
    ]
    record = {"to": OTHER, "record_id": "0a0a0a0a-1", "call_id": "a", "agent_id": None, "event": "call_ended"}
    line = {**record, "environment": None, "documents": described, **fields}
    body = json.dumps(line).encode() + b"\n" + b"".join(files)
    return body[: len(body) - cut]


def nothing_staged(directory: Path) -> Callable[[], Awaitable[bool]]:
    """Whether the directory is empty: a worker thread removes the files, some time after the answer."""

    async def empty() -> bool:
        return not any(directory.iterdir())

    return empty


def wide_window(document: bytes) -> bytes:
    """A frame that makes who decompresses it set 64 MiB aside."""
    parameters = zstandard.ZstdCompressionParameters(window_log=26)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(document) + compressor.flush()


async def test_a_document_that_wants_much_memory_is_refused(admin: AskedSpoolAdmin) -> None:
    """A window above 8 MiB, which no export has, is not decoded here."""
    frame = wide_window(b"{}" * 40_000_000)
    described = [{"form": "core", "bytes": len(frame), "sha256": sha256(frame).hexdigest()}]
    line = {"to": OTHER, "record_id": "0a0a0a0a-1", "call_id": "a", "agent_id": None, "event": "call_ended"}
    body = json.dumps(line | {"environment": None, "documents": described}).encode() + b"\n" + frame
    status, document = await brought(admin, body)
    assert (status, "cannot be decoded" in document["error"]["message"]) == (400, True), document


async def brought(admin: AskedSpoolAdmin, body: bytes) -> tuple[int, Any]:
    """Status and answer."""
    answer = await admin.client.post("/api/dead-letters/import", data=body, headers={"Content-Type": IMPORT_TYPE})
    return answer.status, await answer.json()


async def test_a_call_that_is_erased_while_it_is_imported_is_refused(admin: AskedSpoolAdmin, tmp_path: Path) -> None:
    """Its documents may take minutes to come: whether it was erased is looked at when they are here."""
    whole = a_body(("core", b"{}"))
    line, _, documents = whole.partition(b"\n")

    async def body() -> AsyncIterator[bytes]:
        yield line + b"\n"
        await until(staged, "the import has begun")
        await admin.spool.erasures.order([OwnedCall("a")])
        yield documents

    async def staged() -> bool:
        return any((tmp_path / "staging").iterdir())

    answer = await admin.client.post("/api/dead-letters/import", data=body(), headers={"Content-Type": IMPORT_TYPE})
    assert (answer.status, "erased by order" in await answer.text()) == (400, True)
    assert await states(admin.spool, "a") == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "missing or too long", id="nothing"),
        pytest.param(b"x" * 200_000, "missing or too long", id="no line"),
        pytest.param(a_body(("core", b"{}"), cut=3), "the core is cut off: its 11 bytes", id="cut off"),
        pytest.param(a_body(("core", b"{}"), packed=False), "no zstd", id="not compressed"),
        pytest.param(a_body(("detail", b"{}")), "does not begin and end", id="no detail"),
        pytest.param(a_body(("detail", DETAIL[:-1])), "does not begin and end", id="open detail"),
        pytest.param(a_body(), "does not accept nothing", id="no documents"),
        pytest.param(a_body(("notice", b"{}")), "does not accept notice", id="a notice"),
        pytest.param(a_body(("half", b"{}")), "does not accept half", id="unknown form"),
        pytest.param(a_body(("core", b"{}"), ("whole", b"{}")), "does not accept core, whole", id="twice the same"),
        pytest.param(a_body(("reduced", DETAIL), to=BUCKET), "bucket does not accept reduced", id="not for a bucket"),
        pytest.param(a_body(("core", b"{}"), to="nobody"), "no destination 'nobody'", id="unknown destination"),
        pytest.param(a_body(("core", b"{}"), extra=1), "extra", id="unknown field"),
    ],
)
async def test_what_cannot_be_brought_in_is_told(
    admin: AskedSpoolAdmin, tmp_path: Path, body: bytes, said: str
) -> None:
    """Each mistake has a sentence; nothing is accepted, and no staging file stays."""
    status, document = await brought(admin, body)
    assert (status, said in document["error"]["message"]) == (400, True), document
    assert await states(admin.spool, "a") == []
    await until(nothing_staged(tmp_path / "staging"), "the staging file is removed")


async def test_a_wrong_checksum_is_told(admin: AskedSpoolAdmin) -> None:
    """A document that changed on its way is not accepted."""
    status, document = await brought(admin, a_body(("core", b"{}")).replace(b'"sha256": "', b'"sha256": "0'))
    assert (status, "does not match its SHA-256" in document["error"]["message"]) == (400, True)


@pytest.mark.parametrize("detail", [DETAIL, NUMBER], ids=["text", "number"])
async def test_a_detail_is_made_again_as_it_came(admin: AskedSpoolAdmin, detail: bytes) -> None:
    """Also where the call id was a number; core and detail wait in order, under the name that they had."""
    status, document = await brought(admin, a_body(("core", b'{"call_id": "a"}'), ("detail", detail)))
    assert (status, document) == (200, {"record_id": "0a0a0a0a-1", "duplicate": False})
    assert await states(admin.spool, "a") == [DeliveryState.READY, DeliveryState.WAITING]
    answer = await admin.client.get(f"/api/documents/0a0a0a0a-1/detail/{OTHER}")
    assert await answer.read() == detail
    assert (await brought(admin, a_body(("core", b'{"call_id": "a"}'))))[1]["duplicate"] is True
    (core, _) = (await admin.list(state="queued", target="0a0a0a0a-1"))["deliveries"]
    assert (core["idempotency_key"], core["destination"]) == ("0a0a0a0a-1-core", OTHER)


async def test_an_order_is_no_letter(admin: AskedSpoolAdmin) -> None:
    """What a page of another site could post is not taken, nor what is meant for another route."""
    answer = await admin.client.post("/api/dead-letters/import", json={"to": ENDPOINT})
    assert (answer.status, (await answer.json())["error"]["code"]) == (415, "wrong_type")


async def exported(admin: AskedSpoolAdmin, query: str) -> tuple[list[dict[str, Any]], ZipFile]:
    """The lines of the index, and the archive."""
    answer = await admin.client.get(f"/api/dead-letters/export?{query}")
    assert (answer.status, answer.content_type) == (200, "application/zip"), await answer.text()
    archive = ZipFile(io.BytesIO(await answer.read()))
    return [json.loads(line) for line in archive.read("dead-letters.ndjson").splitlines()], archive


async def test_an_export_holds_what_a_discard_would_take(admin: AskedSpoolAdmin) -> None:
    """The index and a document for each letter, with what is held behind a dead core; a filter and keys select."""
    await admin.buried("a", CORE, DETAIL_FORM, reason="HTTP 422: no")
    await admin.buried("b", WHOLE, reason="HTTP 413: Request Too Long; 9 bytes were sent;")
    (header, *letters), archive = await exported(admin, "")
    assert header["format"] == "callspool.dead-letters/1"
    assert [(each["call_id"], each["form"], each["state"]) for each in letters] == [
        ("a", "core", "dead"), ("a", "detail", "held"), ("b", "whole", "dead"),
    ]  # fmt: skip
    for each in letters:
        packed = archive.read(each["file"])
        assert (sha256(packed).hexdigest(), len(packed)) == (each["sha256"], each["file_bytes"])
        assert json.load(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True))
    assert len((await exported(admin, "kind=too_large"))[0]) == 2
    key = (await admin.list(kind="too_large"))["deliveries"][0]["key"]
    assert [each["call_id"] for each in (await exported(admin, f"key={key}"))[0][1:]] == ["b"]
    assert (await admin.client.head("/api/dead-letters/export")).status == 200


async def test_what_two_destinations_refused_is_in_an_export_once(admin: AskedSpoolAdmin) -> None:
    """A form of a record is one file, however many deliveries name it: an archive has each name once."""
    accepted = await admin.spool.accept(a_record("a", WHOLE, replace(WHOLE, destination=OTHER)))
    for delivery in accepted.ready:
        await admin.spool.settle(delivery, DeadLetter("HTTP 400: no"))
    (_, *letters), archive = await exported(admin, "")
    assert [each["destination"] for each in letters] == [ENDPOINT, OTHER]
    assert sorted(archive.namelist()) == sorted({"dead-letters.ndjson", *(each["file"] for each in letters)})
    assert len({(each["sha256"], each["file_bytes"]) for each in letters}) == 1


async def test_an_export_is_bounded_and_needs_a_token(admin: AskedSpoolAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than an archive may hold is refused with the command that takes them; so is who presents no token."""
    for number in range(3):
        await admin.buried(f"refused-{number}", WHOLE, reason="HTTP 422: no")
    monkeypatch.setattr(export, "MOST_LETTERS", 2)
    answer = await admin.client.get("/api/dead-letters/export")
    assert (answer.status, "callspool dead export" in await answer.text()) == (400, True)
    anonymous = await admin.client.get("/api/dead-letters/export", headers={"Authorization": ""})
    assert anonymous.status == 401

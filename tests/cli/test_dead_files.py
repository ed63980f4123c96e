"""Tests of `callspool dead export`, and of bringing what it wrote into a spool."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.orders.exported import INDEX
from tests.admin.desk import Desk, at_the_desk
from tests.cli.conftest import Cli, Server
from tests.spool.building import a_record, write
from tests.spool.test_payloads import decoded

CORE = b'{"base": 1,"derived": 1}'


@pytest.fixture
def desk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk that the commands find by their environment."""
    made = server.enter(at_the_desk(tmp_path / "spool", Desk))
    monkeypatch.setenv("CALLSPOOL_ADMIN_LISTEN", server.serve(made.app))
    return made


def index_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of an index."""
    return [json.loads(line) for line in (folder / INDEX).read_bytes().splitlines()]


def test_an_export_needs_no_callspool_to_be_read(cli: Cli, server: Server, desk: Desk, tmp_path: Path) -> None:
    """An index that describes itself, and files that hold what would have been sent, with their checksums."""
    letter = server.run(desk.buried("a/b", reason="HTTP 400: no", token="hush"))
    server.run(desk.buried("c"))
    folder = tmp_path / "out" / "letters"
    result = cli("dead", "export", str(folder), "--all")
    assert (result.exit_code, "Wrote 2 dead letters" in result.stdout) == (0, True), result.output
    header, first, second = index_of(folder)
    assert (header["format"], header["exported_at"][-1]) == ("callspool.dead-letters/1", "Z")
    told = (first["record_id"], first["call_id"], first["form"], first["reason"], first["destination"])
    assert told == (letter.record.uid, "a/b", "core", "HTTP 400: no", "endpoint")
    assert (first["idempotency_key"], second["call_id"]) == (letter.idempotency_key, "c")
    file = (folder / first["file"]).read_bytes()
    assert (decoded(file), sha256(file).hexdigest(), len(file)) == (CORE, first["sha256"], first["file_bytes"])
    every = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"hush" not in every
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


def test_only_what_is_selected_is_exported(cli: Cli, server: Server, desk: Desk, tmp_path: Path) -> None:
    """The filters are those of the list; without any, --all is wanted."""
    for call_id in ("a", "b", "c"):
        server.run(desk.buried(call_id))
    folder = tmp_path / "out"
    assert cli("dead", "export", str(folder)).exit_code == 2
    assert cli("dead", "export", str(folder), "a", "c").exit_code == 0
    assert [line["call_id"] for line in index_of(folder)[1:]] == ["a", "c"]
    assert len(list((folder / "documents").iterdir())) == 2


def test_a_damaged_document_does_not_end_an_export(cli: Cli, server: Server, desk: Desk, tmp_path: Path) -> None:
    """What cannot be read is in the index with the reason, and the others are written."""
    server.run(desk.buried("damaged"))
    server.run(desk.buried("whole"))
    assert cli("dead", "show", "damaged", "--payload", "-").exit_code == 0  # what is fresh is in memory, once
    damage = "UPDATE chunks SET crc32 = crc32 + 1 WHERE chunk_id <= 3"
    server.run(write(desk.spool, lambda transaction: transaction.execute(damage).rowcount))
    result = cli("dead", "export", str(tmp_path / "out"), "--all")
    assert (result.exit_code, "1 documents could not be read" in result.stderr) == (0, True), result.output
    _, damaged, whole = index_of(tmp_path / "out")
    assert (damaged["file"], damaged["sha256"], bool(damaged["problem"])) == (None, None, True)
    assert decoded((tmp_path / "out" / whole["file"]).read_bytes()) == CORE


def test_a_folder_that_cannot_be_written_is_named(cli: Cli, server: Server, desk: Desk, tmp_path: Path) -> None:
    """One sentence says where, and nothing is left behind."""
    server.run(desk.spool.accept(a_record("a")))
    (tmp_path / "file").write_text("")
    result = cli("dead", "export", str(tmp_path / "file" / "out"), "--all")
    assert (result.exit_code, "cannot be written" in result.stderr) == (1, True)

"""Tests of `callspool dead export`, and of bringing what it wrote into a spool."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import Exit
from gateway.operations.schemas import INDEX
from spool.payload.frames import DOCUMENT_MARK
from spool.records import DeadLetter, Delivered, DeliveryState, Form, Lane, NewDelivery
from tests.admin.admin_app import OTHER, SpoolAdmin, spool_admin
from tests.cli.conftest import Cli, Server
from tests.spool.spool_parts import (
    BUCKET,
    ENDPOINT,
    WHOLE,
    a_record,
    decoded,
    due,
    split_fragments,
    states,
    write,
)

READY, WAITING = DeliveryState.READY, DeliveryState.WAITING
CORE = b'{"base": 1,"derived": 1}'


def index_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of an index."""
    return [json.loads(line) for line in (folder / INDEX).read_bytes().splitlines()]


def test_an_export_needs_no_callspool_to_be_read(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """An index that describes itself, and files that hold what would have been sent, with their checksums."""
    letter = server.run(admin.buried("a/b", reason="HTTP 400: no", token="hush"))
    server.run(admin.buried("c"))
    folder = tmp_path / "out" / "letters"
    result = cli("dead", "export", str(folder), "--all")
    assert (result.exit_code, "Wrote 4 deliveries" in result.stdout) == (0, True), result.output
    header, first, held, second, _ = index_of(folder)
    assert (header["format"], header["exported_at"][-1]) == ("callspool.dead-letters/1", "Z")
    told = (first["record_id"], first["call_id"], first["form"], first["reason"], first["destination"])
    assert told == (letter.record.uid, "a/b", "core", "HTTP 400: no", "endpoint")
    assert (first["idempotency_key"], second["call_id"]) == (letter.idempotency_key, "c")
    assert [(one["form"], one["state"]) for one in (first, held)] == [("core", "dead"), ("detail", "held")]
    file = (folder / first["file"]).read_bytes()
    assert (decoded(file), sha256(file).hexdigest(), len(file)) == (CORE, first["sha256"], first["file_bytes"])
    every = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"hush" not in every
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


def test_only_what_is_selected_is_exported(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """The filters are those of the list; without any, --all is wanted."""
    for call_id in ("a", "b", "c"):
        server.run(admin.buried(call_id))
    folder = tmp_path / "out"
    assert cli("dead", "export", str(folder)).exit_code == 2
    assert cli("dead", "export", str(folder), "a", "c").exit_code == 0
    assert [line["call_id"] for line in index_of(folder)[1:]] == ["a", "a", "c", "c"]
    assert len(list((folder / "documents").iterdir())) == 4


def test_each_notice_has_a_file_of_its_own(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """Two destinations have notices of one record that name different objects; neither replaces the other."""

    async def refused() -> None:
        objects = [NewDelivery(name, Form.DETAIL, Lane.DETAIL, ordered=False) for name in (BUCKET, OTHER)]
        notices = [NewDelivery(ENDPOINT, Form.NOTICE, Lane.CORE, after=BUCKET)]
        notices.append(NewDelivery(BUCKET, Form.NOTICE, Lane.CORE, after=OTHER))
        accepted = await admin.spool.accept(a_record("a", *objects, *notices, fragments=split_fragments(b'"rest": 1')))
        for one in accepted.ready:
            await admin.spool.settle(one, Delivered(f"s3://{one.destination}/a"))
        for notice in [*await due(admin.spool), *await due(admin.spool, destination=BUCKET)]:
            await admin.spool.settle(notice, DeadLetter("HTTP 404: no"))

    server.run(refused())
    assert cli("dead", "export", str(tmp_path / "out"), "--all").exit_code == 0
    _, *letters = index_of(tmp_path / "out")
    files = {one["destination"]: (tmp_path / "out" / one["file"]).read_bytes() for one in letters}
    named = {destination: json.loads(decoded(file))["s3_bucket"] for destination, file in files.items()}
    assert named == {ENDPOINT: BUCKET, BUCKET: OTHER}
    assert all(sha256(files[one["destination"]]).hexdigest() == one["sha256"] for one in letters)


def test_an_export_is_not_replaced_by_another(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """Its dead letters may have been discarded since: without the index nothing could import them again."""
    server.run(admin.buried("a"))
    assert cli("dead", "export", str(tmp_path / "out"), "--all").exit_code == 0
    index = (tmp_path / "out" / INDEX).read_bytes()
    result = cli("dead", "export", str(tmp_path / "out"), "--destination", OTHER)
    assert (result.exit_code, "holds an export already" in result.stderr) == (2, True)
    assert (tmp_path / "out" / INDEX).read_bytes() == index


def test_a_damaged_document_does_not_end_an_export(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """What cannot be read is in the index with the reason, and the others are written."""
    server.run(admin.buried("damaged"))
    server.run(admin.buried("whole"))
    assert cli("dead", "show", "damaged", "--payload", "-").exit_code == 0  # what is fresh is in memory, once
    damage = "UPDATE chunks SET crc32 = crc32 + 1 WHERE chunk_id <= 3"
    server.run(write(admin.spool, lambda transaction: transaction.execute(damage).rowcount))
    result = cli("dead", "export", str(tmp_path / "out"), "--all")
    assert (result.exit_code, "2 documents could not be read" in result.stderr) == (0, True), result.output
    _, damaged, _, whole, _ = index_of(tmp_path / "out")
    assert (damaged["file"], damaged["sha256"], bool(damaged["problem"])) == (None, None, True)
    assert decoded((tmp_path / "out" / whole["file"]).read_bytes()) == CORE


def test_a_folder_that_cannot_be_written_is_named(cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path) -> None:
    """One sentence says where, and nothing is left behind."""
    server.run(admin.spool.accept(a_record("a")))
    (tmp_path / "file").write_text("")
    result = cli("dead", "export", str(tmp_path / "file" / "out"), "--all")
    assert (result.exit_code, "cannot be written" in result.stderr) == (1, True)


@pytest.fixture
def other(server: Server, tmp_path: Path) -> SpoolAdmin:
    """Another gateway's spool."""
    return server.enter(spool_admin(tmp_path / "other", SpoolAdmin))


@pytest.fixture
def there(server: Server, other: SpoolAdmin) -> tuple[str, str]:
    """How commands are told to ask that other gateway."""
    return "--admin", server.serve(other.app)


def exported(cli: Cli, server: Server, admin: SpoolAdmin, folder: Path) -> None:
    """A dead detail whose core was delivered, a dead whole, and a dead core with the detail that is held with it."""

    async def bury() -> None:
        """One after the other, in commit order."""
        first = await admin.buried("a", rest=b'"rest": "' + b"x" * 2_000_000 + b'"')
        (core,) = (await admin.spool.admin.replay([first.key])).ready
        (detail,) = await admin.spool.settle(core, Delivered())
        await admin.spool.settle(detail, DeadLetter("HTTP 413"))
        await admin.buried("b", WHOLE)
        await admin.buried("b")

    server.run(bury())
    assert cli("dead", "export", str(folder), "--all").exit_code == 0


def documents(cli: Cli, *there: str) -> dict[str, bytes]:
    """What each delivery of a gateway carries, by its idempotency key."""
    listed = cli("deliveries", "list", "--json", "--state", "dead", "--state", "queued", *there)
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    return {
        one["idempotency_key"]: cli("dead", "show", one["key"], "--payload", "-", *there).stdout_bytes for one in found
    }


def test_what_was_exported_can_be_brought_into_another_spool(
    cli: Cli, server: Server, admin: SpoolAdmin, other: SpoolAdmin, there: tuple[str, str], tmp_path: Path
) -> None:
    """It is queued there with the same keys and documents, in the order of its calls, and only once."""
    exported(cli, server, admin, tmp_path / "out")
    command = ("dead", "import", str(tmp_path / "out"), "--to", OTHER, *there)
    assert "Would import 3 call logs." in cli(*command, "--dry-run").stdout
    assert server.run(states(other.spool, "a")) == []
    result = cli(*command)
    assert (result.exit_code, f"Imported 3 call logs for {OTHER}." in result.stdout) == (0, True), result.output
    again = cli(*command)
    assert ("Imported 0 call logs" in again.stdout, "3 were known already" in again.stderr) == (True, True)
    assert documents(cli, *there) == documents(cli)
    assert server.run(states(other.spool, "b")) == [READY, WAITING, WAITING]
    assert server.run(other.spool.token(1)) is None
    assert all(lane.unaccounted == 0 for lane in other.spool.stats().lanes.values())


def test_what_is_brought_in_keeps_the_gateways_that_it_came_through(
    cli: Cli, server: Server, admin: SpoolAdmin, other: SpoolAdmin, there: tuple[str, str], tmp_path: Path
) -> None:
    """It is not sent back there from another spool either."""
    via = "1.1 callspool-00000001, 1.1 callspool-00000002"
    (letter,) = server.run(admin.spool.accept(a_record("a", via=via))).ready
    server.run(admin.spool.settle(letter, DeadLetter("HTTP 422")))
    assert cli("dead", "export", str(tmp_path / "out"), "--all").exit_code == 0
    assert index_of(tmp_path / "out")[1]["via"] == via
    assert cli("dead", "import", str(tmp_path / "out"), "--to", OTHER, *there).exit_code == 0
    (record,) = server.run(other.spool.trace("a"))
    assert record.record.via == via


def test_a_mistyped_destination_is_no_empty_success(
    cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path
) -> None:
    """An export of nothing may be taken for all there was, and so may an import of nothing."""
    exported(cli, server, admin, tmp_path / "out")
    refused = cli("dead", "export", str(tmp_path / "new"), "--destination", "endpiont")
    assert (refused.exit_code, "There is no destination endpiont." in refused.stderr) == (Exit.USAGE, True)
    assert not (tmp_path / "new").exists()
    refused = cli("dead", "import", str(tmp_path / "out"), "--to", OTHER, "--from", "endpiont")
    assert (refused.exit_code, "has no dead letters of endpiont" in refused.stderr) == (Exit.USAGE, True)
    assert "It has those of: endpoint" in refused.stderr


def test_a_key_can_be_given_to_what_is_brought_in(
    cli: Cli, server: Server, admin: SpoolAdmin, other: SpoolAdmin, there: tuple[str, str], tmp_path: Path
) -> None:
    """It comes from a file or standard input, like every key."""
    exported(cli, server, admin, tmp_path / "out")
    result = cli("dead", "import", str(tmp_path / "out"), "--to", OTHER, "--key", "-", *there, stdin="hush\n")
    assert (result.exit_code, "hush" in result.output) == (0, False), result.output
    assert server.run(other.spool.token(1)) == "hush"


def test_what_is_still_here_is_not_brought_in_and_what_was_discarded_is(
    cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path
) -> None:
    """An export is a copy: into its own spool it comes back only once what it was made of is gone."""
    exported(cli, server, admin, tmp_path / "out")
    command = ("dead", "import", str(tmp_path / "out"), "--to", "endpoint")
    assert "3 were known already" in cli(*command).stderr
    before = documents(cli)
    assert cli("dead", "discard", "b", "--yes").exit_code == 0
    assert "Imported 2 call logs" in cli(*command).stdout
    assert documents(cli) == before


def linked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to(file.with_name("elsewhere"))


def piped(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-1]), "is 1 bytes too short", id="cut off"),
        pytest.param(lambda file: file.write_bytes(bytes(file.stat().st_size)), "does not match its SHA", id="changed"),
        pytest.param(lambda file: file.unlink(), "cannot be read", id="missing"),
        pytest.param(linked, "cannot be read: Too many levels of symbolic links", id="a link"),
        pytest.param(piped, "cannot be read: it is not a file", id="a pipe"),
    ],
)
def test_what_is_not_whole_is_left_out(
    cli: Cli,
    server: Server,
    admin: SpoolAdmin,
    other: SpoolAdmin,
    there: tuple[str, str],
    tmp_path: Path,
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    """A damaged file is told with its call, nothing of it is stored, and the others are imported."""
    exported(cli, server, admin, tmp_path / "out")
    _, first, *_ = index_of(tmp_path / "out")
    spoil(tmp_path / "out" / first["file"])
    result = cli("dead", "import", str(tmp_path / "out"), "--to", OTHER, *there)
    assert (result.exit_code, said in result.stderr) == (1, True), result.output
    assert "1 could not be imported" in result.stderr
    assert "Imported 2 call logs" in result.stdout


@pytest.mark.parametrize(("to", "said"), [("nobody", "no destination 'nobody'"), ("bucket", "Imported 3")])
def test_the_destination_decides_what_can_be_brought_in(
    cli: Cli,
    server: Server,
    admin: SpoolAdmin,
    other: SpoolAdmin,
    there: tuple[str, str],
    tmp_path: Path,
    to: str,
    said: str,
) -> None:
    """An unknown destination is named, with the known ones; a bucket takes objects in any order."""
    exported(cli, server, admin, tmp_path / "out")
    result = cli("dead", "import", str(tmp_path / "out"), "--to", to, *there)
    assert said in result.output


def test_a_folder_without_an_index_is_no_export(cli: Cli, tmp_path: Path) -> None:
    """What is no export, or one of another format, is told before anything is asked."""
    assert "is not an index of dead letters" in cli("dead", "import", str(tmp_path), "--to", "x").stderr
    (tmp_path / INDEX).write_text('{"format": "other/1", "exported_at": "", "callspool": ""}\n')
    assert "is not callspool.dead-letters/1" in cli("dead", "import", str(tmp_path), "--to", "x").stderr
    (tmp_path / INDEX).write_text("x" * 5_000_000)
    assert "a line of more than 1048576 bytes" in cli("dead", "import", str(tmp_path), "--to", "x").stderr
    (tmp_path / INDEX).unlink()
    (tmp_path / INDEX).symlink_to("/dev/zero")
    assert "symbolic links" in cli("dead", "import", str(tmp_path), "--to", "x").stderr


def test_an_export_with_the_spools_key_opens_with_that_alone(
    cli: Cli, server: Server, admin: SpoolAdmin, there: tuple[str, str], tmp_path: Path
) -> None:
    """Documents are encrypted, and imported with the key; without it, or changed, they are refused by name."""
    folder, key, other = tmp_path / "out", tmp_path / "key", tmp_path / "wrong-key"
    key.write_text("# the key\n" + "A" * 43 + "=\n")
    other.write_text("B" * 43 + "=\n")
    server.run(admin.buried("a", WHOLE))
    assert cli("dead", "export", str(folder), "--all", "--spool-key-file", str(key)).exit_code == 0
    (_, letter) = index_of(folder)
    sealed = (folder / letter["file"]).read_bytes()
    assert sealed.startswith(DOCUMENT_MARK)
    assert b"\x28\xb5\x2f\xfd" not in sealed
    brought = ("dead", "import", str(folder), "--to", OTHER, *there)
    for wrong in ((), ("--spool-key-file", str(other))):
        result = cli(*brought, *wrong)
        assert (result.exit_code, "is encrypted with the key" in result.output) == (1, True), result.output
    (folder / letter["file"]).write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert "cannot be decrypted" in cli(*brought, "--spool-key-file", str(key)).output
    (folder / letter["file"]).write_bytes(sealed)
    assert "Imported 1 call log" in cli(*brought, "--spool-key-file", str(key)).stdout


@pytest.mark.parametrize("way", ["variable", "file", "command", "configuration"])
def test_an_export_is_encrypted_with_the_key_that_the_gateway_has(
    cli: Cli, server: Server, admin: SpoolAdmin, there: tuple[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, way: str,
) -> None:  # fmt: skip
    """Whichever way the key is given to the gateway, the commands find it there."""
    folder, key, config = tmp_path / "out", tmp_path / "key", tmp_path / "callspool.toml"
    key.write_text("A" * 43 + "=\n")
    config.write_text(f'[spool]\nkey_file = "{key}"\n')
    given = {
        "variable": {"CALLSPOOL_SPOOL_KEY": key.read_text()},
        "file": {"CALLSPOOL_SPOOL_KEY_FILE": str(key)},
        "command": {"CALLSPOOL_SPOOL_KEY_COMMAND": f"cat {key}"},
        "configuration": {"CALLSPOOL_CONFIG": str(config)},
    }[way]
    server.run(admin.buried("a", WHOLE))
    with monkeypatch.context() as environment:
        for name, value in given.items():
            environment.setenv(name, value)
        assert cli("dead", "export", str(folder), "--all").exit_code == 0
        (_, letter) = index_of(folder)
        assert (folder / letter["file"]).read_bytes().startswith(DOCUMENT_MARK)
        brought = cli("dead", "import", str(folder), "--to", OTHER, *there)
        assert "Imported 1 call log" in brought.stdout, brought.output


def test_a_key_that_cannot_be_read_writes_nothing_plain(
    cli: Cli, server: Server, admin: SpoolAdmin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was to be encrypted is not written plain because the key is missing; its variable is named."""
    server.run(admin.buried("a", WHOLE))
    for name, value in (("CALLSPOOL_SPOOL_KEY_FILE", str(tmp_path / "none")), ("CALLSPOOL_SPOOL_KEY", "short")):
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            result = cli("dead", "export", str(tmp_path / "out"), "--all")
            assert (result.exit_code, "CALLSPOOL_SPOOL_KEY" in result.stderr) == (2, True), result.output
    (tmp_path / "callspool.toml").write_text(f'[spool]\nkey_file = "{tmp_path / "none"}"\n')
    monkeypatch.setenv("CALLSPOOL_CONFIG", str(tmp_path / "callspool.toml"))
    assert cli("dead", "export", str(tmp_path / "out"), "--all").exit_code == 2
    assert not (tmp_path / "out").exists()

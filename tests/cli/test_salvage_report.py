"""`callspool salvage`, `adopt` and `rekey`: what they advise, and what they say where there is nothing to work on."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from gateway.cli import Exit
from gateway.cli.salvage import describe
from gateway.operations.salvage import Line, Progress, Report, UnreadableRecord
from spool.directory import DATABASE_NAME, LOCK_NAME
from tests.cli.conftest import Cli, Server
from tests.spool.spool_parts import a_record, opened

REPORTS = [
    # adopt, dry run, complete, incomplete, and what is said
    ("salvaged whole", (False, False, True, False), "can be removed; do not start a gateway there"),
    ("adopted whole", (True, False, True, False), "can be removed."),
    ("something is lost", (False, False, False, True), "Keep /old if what was lost matters"),
    ("adopted, something is lost", (True, False, False, True), "Keep /old if what was lost matters"),
    ("changed meanwhile", (False, False, False, False), "Run this again"),
    ("a dry run", (False, True, False, False), None),
]


@pytest.mark.parametrize(("what", "said"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS])
def test_a_directory_can_be_removed_only_where_nothing_is_missing(
    capsys: pytest.CaptureFixture[str], what: tuple[bool, bool, bool, bool], said: str | None
) -> None:
    """That is advised from the run itself, and after no other one."""
    adopt, dry_run, complete, incomplete = what
    lost = [UnreadableRecord(5, "call", "malformed")] if incomplete else []
    report = Report(
        directory="/old", adopt=adopt, dry_run=dry_run, records={"imported": 3}, deliveries={"ready": 3},
        payload_bytes=100, without_token=0, unreadable=lost, incomplete=incomplete, complete=complete,
    )  # fmt: skip
    describe(report)
    printed = " ".join(capsys.readouterr().out.split())
    assert ("can be removed" in printed) is complete
    assert said is None or said in printed


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a spool would be, and no gateway runs."""
    monkeypatch.setenv("CALLSPOOL_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("CALLSPOOL_ADMIN_LISTEN", "127.0.0.1:9")
    return tmp_path / "spool"


async def _fill(directory: Path) -> None:
    async with opened(directory) as spool:
        await spool.accept(a_record("call-1"))


COMMANDS = [
    ("adopt", lambda old: ("adopt", str(old))),
    ("salvage of a directory", lambda old: ("salvage", str(old))),
    ("salvage", lambda _: ("salvage",)),
    ("rekey", lambda _: ("rekey",)),
]


@pytest.mark.parametrize("command", [row[1] for row in COMMANDS], ids=[row[0] for row in COMMANDS])
def test_no_spool_is_made_where_none_was(
    cli: Cli, configured: Path, tmp_path: Path, command: Callable[[Path], tuple[str, ...]]
) -> None:
    """A mistyped configuration is named; nothing is imported into a spool that no gateway runs with."""
    asyncio.run(_fill(tmp_path / "old"))
    result = cli(*command(tmp_path / "old"))
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert f"there is no spool in {configured}: {DATABASE_NAME} is missing" in result.stderr
    assert not configured.exists()


@pytest.mark.parametrize("command", ["adopt", "salvage"])
def test_a_directory_without_a_spool_is_left_as_it_is(cli: Cli, configured: Path, tmp_path: Path, command: str) -> None:
    """It is named once, with what is missing there, and nothing is said of an import."""
    asyncio.run(_fill(configured))
    (tmp_path / "empty").mkdir()
    result = cli(command, str(tmp_path / "empty"))
    assert result.exit_code == Exit.FAILED
    assert result.stderr == f"there is no spool in {tmp_path / 'empty'}: {DATABASE_NAME} is missing.\n"
    assert not list((tmp_path / "empty").iterdir())


def test_a_gateway_elsewhere_is_not_stood_in_for(cli: Cli, configured: Path, tmp_path: Path) -> None:
    """What was meant for a gateway at an address that was typed does not come into the spool of this machine."""
    asyncio.run(_fill(configured))
    asyncio.run(_fill(tmp_path / "old"))
    result = cli("adopt", str(tmp_path / "old"), "--admin", "127.0.0.1:9")
    assert (result.exit_code, "No gateway answers at 127.0.0.1:9" in result.stderr) == (Exit.NO_GATEWAY, True)
    assert not list((tmp_path / "old").glob("quarantine-*"))


def test_a_lock_that_cannot_be_opened_is_named(cli: Cli, configured: Path) -> None:
    """Whether a gateway runs is not known then: nothing is done."""
    asyncio.run(_fill(configured))
    (configured / LOCK_NAME).unlink()
    (configured / LOCK_NAME).symlink_to("elsewhere")
    result = cli("salvage")
    assert (result.exit_code, f"cannot open {configured / LOCK_NAME}" in result.stderr) == (Exit.FAILED, True)


REPORTED = Report(
    directory="/old", adopt=False, dry_run=False, records={"imported": 3}, deliveries={}, payload_bytes=1,
    without_token=0, unreadable=[],
)  # fmt: skip


@pytest.mark.parametrize("whole", [False, True], ids=["cut", "ended"])
@pytest.mark.parametrize("command", [("salvage",), ("rekey",), ("erase", "--call-id", "a")], ids=lambda each: each[0])
@pytest.mark.parametrize("lines", [(), (Progress("records", 3, 9),)], ids=["nothing", "progress"])
def test_an_answer_without_its_last_line_is_a_failure(
    cli: Cli, server: Server, command: tuple[str, ...], lines: tuple[Line, ...], whole: bool
) -> None:
    """Whether the connection is cut or the answer ends too early: the outcome is unknown, and the command says so."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(msgspec.json.encode(line) + b"\n")
        if not whole:
            assert request.transport is not None
            request.transport.close()
        return response

    app = web.Application()
    app.router.add_post("/api/{name}", answer)
    result = cli(*command, "--admin", server.serve(app))
    assert (result.exit_code, result.stdout) == (Exit.FAILED, "")
    assert "outcome is unknown" in result.stderr
    assert "repeat the command" in result.stderr.lower()


@pytest.mark.parametrize(
    "command",
    [("salvage",), ("rekey",), ("erase", "--call-id", "a"), ("dead", "replay", "--all"), ("reload",)],
    ids=" ".join,
)
def test_an_order_that_is_not_answered_may_have_been_carried_out(
    cli: Cli, server: Server, command: tuple[str, ...]
) -> None:
    """The gateway took it, and was gone: that is not the same as none that answers."""

    async def vanish(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", vanish)
    address = server.serve(app)
    result = cli(*command, "--admin", address)
    assert (result.exit_code, result.stdout) == (Exit.FAILED, "")
    assert f"The gateway at {address} did not answer: " in result.stderr
    assert "outcome is unknown" in result.stderr
    assert cli("status", "--admin", address).exit_code == Exit.NO_GATEWAY


def test_an_answer_that_is_cut_between_two_reports_is_a_failure(cli: Cli, server: Server) -> None:
    """One directory was salvaged; the others may have been."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(msgspec.json.encode(REPORTED) + b"\n")
        assert request.transport is not None
        request.transport.close()
        return response

    app = web.Application()
    app.router.add_post("/api/salvage", answer)
    result = cli("salvage", "--admin", server.serve(app))
    assert (result.exit_code, "/old" in result.stdout) == (Exit.FAILED, True)
    assert "outcome is unknown" in result.stderr


@pytest.mark.parametrize("chunked", [False, True])
def test_a_document_that_is_cut_is_a_failure(cli: Cli, server: Server, chunked: bool) -> None:
    """What came of it is no whole document, whether its length was announced or not."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = None if chunked else 1000
        await response.prepare(request)
        await response.write(b'{"transcript": ')
        assert request.transport is not None
        request.transport.close()
        return response

    app = web.Application()
    app.router.add_get("/api/calls/{call}/detail", answer)
    result = cli("calls", "detail", "call-1", "--admin", server.serve(app))
    assert (result.exit_code, "ended in the middle" in result.stderr) == (Exit.FAILED, True)

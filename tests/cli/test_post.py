"""`callspool post`: a call log from a file, into a running gateway."""

import asyncio
import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard
from aiohttp import web
from click.testing import CliRunner, Result

from gateway.cli import Exit, main
from tests.cli.conftest import Server
from tests.intake.running_intake import RunningIntake, running

CALL = {"call_id": "call-1", "wcall_event": "call_ended"}


async def post(
    world: RunningIntake | None, *arguments: str, stdin: bytes | None = None, token: str | None = None
) -> Result:
    """Run the command in a thread. Without a world no gateway is there."""
    command = ["post", *arguments, "--intake", f"127.0.0.1:{world.port if world else 9}"]
    environment = {"CALLSPOOL_INTAKE_TOKEN": token}
    return await asyncio.to_thread(CliRunner().invoke, main, command, input=stdin, env=environment)


@pytest.mark.parametrize(
    ("name", "packed"),
    [("a.json", lambda data: data), ("a.json.gz", gzip.compress), ("a.json.zst", zstandard.compress)],
)
async def test_a_file_is_posted_and_its_acknowledgement_shown(tmp_path: Path, name: str, packed: object) -> None:
    """The call, the record and the time are shown; posted again, it is already known; the key goes with it."""
    assert callable(packed)
    (tmp_path / name).write_bytes(packed(json.dumps(CALL).encode()))
    (tmp_path / "key").write_text("agents-key\n")
    async with running(tmp_path / "spool", token="intake-token") as world:
        arguments = (str(tmp_path / name), "--key", str(tmp_path / "key"))
        first = await post(world, *arguments, token="intake-token")
        again = await post(world, *arguments, token="intake-token")
        record = (await world.only_record("call-1")).record
        assert await world.spool.token(record.token_id or 0) == "agents-key"
    assert (first.exit_code, f"call call-1 durable as {record.uid}" in first.stdout) == (0, True), first.output
    assert "call call-1 already known" in again.stdout


async def test_standard_input_is_posted(tmp_path: Path) -> None:
    """`-` is standard input, so that a program can pipe its call log."""
    async with running(tmp_path / "spool") as world:
        result = await post(world, "-", stdin=json.dumps(CALL).encode())
        assert (result.exit_code, "durable" in result.stdout) == (0, True), result.output
        await world.only_record("call-1")


async def test_a_pipe_is_posted(tmp_path: Path) -> None:
    """`<(command)` of a shell is a file without a size."""
    reading, writing = os.pipe()
    os.write(writing, json.dumps(CALL).encode())
    os.close(writing)
    async with running(tmp_path / "spool") as world:
        result = await post(world, f"/dev/fd/{reading}")
        assert (result.exit_code, "durable" in result.stdout) == (0, True), result.output
    os.close(reading)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", "ключ".encode(), b"one\ntwo"], ids=ascii)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """No header could carry it; it is not shown."""
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "a.json").write_text(json.dumps(CALL))
    file, name = str(tmp_path / "a.json"), str(tmp_path / "key")
    for command in (
        ("post", file, "--key", name),
        ("deliveries", "replace-token", "a", "--key", name),
        ("dead", "import", str(tmp_path), "--to", "x", "--key", name),
        ("check-config", "--local", "--probe", "--probe-token", name),
    ):
        result = CliRunner().invoke(main, command)
        assert (result.exit_code, f"{name} holds no key" in result.stderr) == (Exit.USAGE, True), result.output


def test_a_token_that_is_none_is_refused(server: Server, tmp_path: Path) -> None:
    """Those of the environment as well, by the name of what they are for."""
    (tmp_path / "a.json").write_text(json.dumps(CALL))
    post = ("post", str(tmp_path / "a.json"), "--intake", "127.0.0.1:9")
    for command, name in ((post, "INTAKE"), (("dead", "list", "--admin", server.serve(web.Application())), "ADMIN")):
        result = CliRunner().invoke(main, command, env={f"CALLSPOOL_{name}_TOKEN": "ключ"})
        said = f"The token of the {'intake' if name == 'INTAKE' else 'admin listener'} cannot be sent"
        assert (result.exit_code, said in result.stderr, "ключ" in result.output) == (Exit.USAGE, True, False)


async def test_what_is_rejected_is_said_with_its_hint_and_the_others_are_posted(tmp_path: Path) -> None:
    """A missing file and a body without a call id fail the command; the good one is accepted."""
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "good.json").write_text(json.dumps(CALL))
    async with running(tmp_path / "spool") as world:
        files = [str(tmp_path / name) for name in ("none.json", "bad.json", "good.json")]
        result = await post(world, *files)
        assert result.exit_code == Exit.FAILED
        assert "none.json cannot be read: No such file" in result.stderr
        assert "bad.json was rejected (HTTP 422)" in result.stderr
        assert "call call-1 durable" in result.stdout


async def test_without_a_gateway_the_way_out_is_named(tmp_path: Path) -> None:
    """Exit code 3, as for the commands that ask the admin listener."""
    (tmp_path / "a.json").write_text(json.dumps(CALL))
    result = await post(None, str(tmp_path / "a.json"))
    assert (result.exit_code, "No gateway answers" in result.stderr) == (Exit.NO_GATEWAY, True)

"""`callspool webhooks`: a signed sample, and why a signature fails."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway.cli import main
from gateway.webhooks.providers import PROVIDERS
from tests.cli.conftest import Server

SECRET = "a-secret-of-more-than-thirty-two-characters"


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "callspool.toml"
    sources = "".join(
        f'[[sources]]\nname = "{name}"\nprovider = "{name}"\nsecrets = ["{SECRET}"]\n'
        for name in ("elevenlabs", "retell", "vapi")
    )
    file.write_text(f'[webhooks]\nlisten = "127.0.0.1:7719"\n{sources}')
    return str(file)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["webhooks", *arguments])
    return result.exit_code, " ".join(result.output.split())


def signed(name: str, body: bytes, *, ago: float = 0.0, secret: str = SECRET) -> list[str]:
    """The options that give the headers of a provider."""
    headers = PROVIDERS[name].scheme.sign(secret, body, time.time() - ago)
    return [part for header, value in headers.items() for part in ("--header", f"{header}: {value}")]


def test_a_dry_run_shows_what_becomes_of_a_sample(config: str) -> None:
    """Each member of the call log is shown, and nothing is sent."""
    code, said = run("test", "vapi", "--dry-run", "--config", config)
    assert code == 0, said
    assert "end-of-call-report" in said
    assert "customer-ended-call" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("test", "nobody"), "Known are: elevenlabs, retell, vapi"),
        (("test", "retell", "--sample", "nothing"), "call_started, call_ended, call_analyzed"),
    ],
)
def test_what_is_not_there_names_what_is(config: str, arguments: tuple[str, ...], expected: str) -> None:
    """A wrong name is answered with the right ones."""
    code, said = run(*arguments, "--config", config)
    assert code == 2
    assert expected in said


def test_nobody_listening_is_said(config: str, unused_tcp_port: int) -> None:
    """The next step is named."""
    code, said = run("test", "retell", "--to", f"127.0.0.1:{unused_tcp_port}", "--config", config)
    assert code == 3
    assert "callspool run" in said


@pytest.mark.parametrize("answer", ["[]", "<html>", "\xff"])
def test_another_server_is_told_from_a_gateway(config: str, server: Server, answer: str) -> None:
    """Whatever it answers, there is no traceback."""

    async def said(_request: web.Request) -> web.Response:
        return web.Response(body=answer.encode("latin-1"))

    app = web.Application()
    app.router.add_post("/{path:.*}", said)
    code, told = run("test", "retell", "--to", server.serve(app), "--config", config)
    assert code == 3
    assert "is not a callspool gateway (HTTP 200)" in told


def test_a_body_that_nests_too_deep_is_not_genuine(config: str, tmp_path: Path) -> None:
    """It is not written anew to see whether that would verify."""
    body = tmp_path / "body"
    body.write_bytes(b"[" * 100_000)
    code, told = run("verify", str(body), "--source", "retell", "--config", config, *signed("retell", b"{}"))
    assert (code, "not of this body" in told) == (1, True), told


def test_a_genuine_body_is_said_to_be_one(config: str, tmp_path: Path) -> None:
    """The right secret, the right bytes, a near time."""
    body = tmp_path / "body"
    body.write_bytes(b'{"event": "call_ended"}')
    code, said = run(
        "verify", str(body), "--source", "retell", "--config", config, *signed("retell", body.read_bytes())
    )
    assert code == 0, said
    assert "genuine" in said


def test_a_wrong_clock_is_told_from_a_wrong_secret(config: str, tmp_path: Path) -> None:
    """The signature is genuine, and refused for its time; or it is not genuine at all."""
    body = tmp_path / "body"
    body.write_bytes(b'{"event": "call_ended"}')
    options = ("verify", str(body), "--source", "retell", "--config", config)
    code, said = run(*options, *signed("retell", body.read_bytes(), ago=4000))
    assert code == 1
    assert "genuine" in said
    assert "4000 s ago" in said or "4001 s ago" in said
    code, said = run(*options, *signed("retell", body.read_bytes(), secret="another"))
    assert code == 1
    assert "not of this body and of any configured secret" in said


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda body: json.dumps(json.loads(body)).encode(), "without blanks"),
        (lambda body: body + b"\n", "without the line break"),
    ],
)
def test_a_body_that_was_written_again_is_recognised(
    config: str, tmp_path: Path, changed: Callable[[bytes], bytes], expected: str
) -> None:
    """The commonest fault of receivers: they sign what they parsed and wrote again."""
    original = '{"event":"call_ended","text":"é"}'.encode()
    body = tmp_path / "body"
    body.write_bytes(changed(original))
    code, said = run("verify", str(body), "--source", "retell", "--config", config, *signed("retell", original))
    assert code == 1
    assert f"The signature is of the same JSON {expected}" in said or f"The signature is of the body {expected}" in said

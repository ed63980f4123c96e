"""A gateway at Unix sockets, and one with TLS on all listeners, asked by the command line."""

import asyncio
import json
import os
import ssl
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from tests.system import preloaded
from tests.system.gateway_process import GatewayProcess, ReservedPort
from tests.system.waiting import until

AUTHORITY = trustme.CA()
CALL = {"call_id": "call-1", "transcript": "hello"}


async def cli(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    code, output = await preloaded.run(*arguments, environment={**os.environ, **environment})
    return code, output.decode()


@asynccontextmanager
async def running(gateway: GatewayProcess) -> AsyncIterator[None]:
    """The gateway from its start to its end; its listeners are not those that `GatewayProcess` would ask."""
    try:
        await started(gateway)
        yield
    finally:
        if gateway.alive:
            gateway.terminate()
            gateway.terminate()
            await gateway.ended()
        await gateway.__aexit__()


async def started(gateway: GatewayProcess) -> None:
    before = len(gateway.events("running")) if gateway.spool.exists() else 0
    await gateway.spawn()

    async def runs_or_dead() -> bool:
        return not gateway.alive or len(gateway.events("running")) > before

    await until(runs_or_dead, "the gateway runs", deadline=30)
    assert gateway.alive, gateway.log


@pytest.mark.slow
async def test_a_gateway_can_be_asked_by_unix_sockets_alone(tmp_path: Path) -> None:
    """The command line posts and asks without a token: the kernel says that it is the gateway's own user.

    A killed gateway leaves its sockets behind, and the next start replaces them.
    """
    run = tmp_path / "run"
    addresses = {"CALLSPOOL_INTAKE_LISTEN": f"unix:{run}/in.sock", "CALLSPOOL_ADMIN_LISTEN": f"unix:{run}/admin.sock"}
    secret = {"CALLSPOOL_ADMIN_TOKEN": "a-token-that-nobody-is-told"}
    audit = tmp_path / "audit.log"
    environment = {**addresses, **secret, "CALLSPOOL_AUDIT_FILE": str(audit)}
    gateway = GatewayProcess(tmp_path / "gateway", environment, arguments=["--local"])
    call = tmp_path / "call.json"
    call.write_text(json.dumps(CALL))
    await started(gateway)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.iterdir()} == {
        "in.sock": 0o660,
        "admin.sock": 0o600,
    }
    await gateway.kill()
    async with running(gateway):
        for arguments in (("post", str(call)), ("dead", "replay", "--all"), ("show", "call-1")):
            code, said = await cli(addresses, *arguments)
            assert code == 0, said
    assert "call-1" in said
    lines = [json.loads(each) for each in audit.read_text().splitlines()]
    assert {(line["role"], line["who"], line["from"]) for line in lines} == {
        ("admin", f"uid {os.geteuid()}", f"unix uid {os.geteuid()}")
    }
    assert "replay" in {line["action"] for line in lines}
    assert not list(run.iterdir())


@pytest.mark.slow
async def test_all_listeners_speak_tls_with_renewed_certificates(tmp_path: Path) -> None:
    """The command line trusts the gateway's own certificate; admin and webhooks know their client by a certificate.

    A renewed certificate is presented without a restart.
    """
    port = ReservedPort()
    files = {name: tmp_path / f"{name}.pem" for name in ("server", "client", "authority")}
    write_certificate(files["server"], "callspool.example.com")
    write_certificate(files["client"], "operator@example.com")
    AUTHORITY.cert_pem.write_to_path(str(files["authority"]))
    gateway = GatewayProcess(tmp_path / "gateway", arguments=["--local"])
    gateway.environment |= {
        "CALLSPOOL_INTAKE_TLS_CERT_FILE": str(files["server"]),
        "CALLSPOOL_ADMIN_TLS_CERT_FILE": str(files["server"]),
        "CALLSPOOL_ADMIN_TLS_CLIENT_CA_FILE": str(files["authority"]),
        "CALLSPOOL_AUDIT_FILE": str(tmp_path / "audit.log"),
        "CALLSPOOL_WEBHOOKS_LISTEN": f"127.0.0.1:{port.number}",
        "CALLSPOOL_WEBHOOKS_TLS_CERT_FILE": str(files["server"]),
        "CALLSPOOL_WEBHOOKS_TLS_CLIENT_CA_FILE": str(files["authority"]),
        "CALLSPOOL_VAPI_SECRET": "a-secret-of-more-than-thirty-two-characters",
    }
    asking = {
        **{
            name: value
            for name, value in gateway.environment.items()
            if name.endswith("_CERT_FILE") or "_WEBHOOKS_" in name or "_VAPI_" in name
        },
        "CALLSPOOL_SPOOL_DIR": str(gateway.spool),
        "CALLSPOOL_INTAKE_LISTEN": gateway.intake_url.removeprefix("http://"),
        "CALLSPOOL_ADMIN_LISTEN": gateway.admin_url.removeprefix("http://"),
    }
    call = tmp_path / "call.json"
    call.write_text(json.dumps(CALL))
    async with running(gateway):
        code, said = await cli(asking, "post", str(call))
        assert code == 0, said
        code, said = await cli(asking, "dead", "replay", "--all")
        assert code == 3, said
        client = {"CALLSPOOL_CLI_CERT_FILE": str(files["client"])}
        code, said = await cli({**asking, **client}, "dead", "replay", "--all")
        assert code == 0, said
        code, said = await cli(asking, "webhooks", "test", "vapi")
        assert code == 3, said
        code, said = await cli({**asking, **client}, "webhooks", "test", "vapi")
        assert code == 0, said
        urls = (gateway.intake_url, gateway.admin_url, f"http://127.0.0.1:{port.number}")
        before = [await presented(url) for url in urls]
        write_certificate(files["server"], "callspool.example.com")

        async def are_renewed() -> bool:
            return all([await presented(url) != old for url, old in zip(urls, before, strict=True)])

        await until(are_renewed, "the renewed certificate is presented")
    port.close()
    (line,) = [json.loads(each) for each in (tmp_path / "audit.log").read_text().splitlines()]
    assert (line["who"], line["certificate"]) == ("the spool's token", "email:operator@example.com")


async def presented(url: str) -> str:
    """The certificate that a listener presents."""
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))


def write_certificate(file: Path, name: str) -> None:
    """A certificate and its key in one file."""
    made = AUTHORITY.issue_cert(name)
    file.write_bytes(made.private_key_and_cert_chain_pem.bytes())
    file.chmod(0o600)

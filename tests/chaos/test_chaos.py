"""`callspool chaos`, as an operator runs it."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from config.destinations import FileDestination
from config.settings import Settings
from gateway.chaos.harness import GatewayFailed, GatewayUnderTest, free_address
from gateway.cli.chaos import settings_under_test

CONFIGURATION = """
[spool]
dir = "{folder}/spool"

[intake]
token = "intake-secret"

[whispey]
outbox = ["{folder}/outbox.db"]

[[destinations]]
name = "real"
type = "http"
url = "https://endpoint.invalid/send-call-log"
token = "endpoint-secret"
encoding = "zstd"
"""


def test_nothing_of_the_operators_is_touched(tmp_path: Path) -> None:
    """Spool, addresses, destinations and ways in are the check's own; what else there is stays."""
    files = FileDestination(name="files", type="file", path=tmp_path / "delivered")
    tls = {"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem"}
    settings = Settings.model_validate(
        {
            "intake": tls,
            "admin": tls,
            "audit": {"file": tmp_path / "audit.log"},
            "traces": {"endpoint": "http://127.0.0.1:4318"},
            "webhooks": {"listen": "0.0.0.0:9000"},
            "destinations": (files,),
            "tenants": {"acme": {"agents": ["a"], "destinations": ["files"]}},
        }
    )
    intake, admin = free_address(), free_address()
    changed = settings_under_test(settings, tmp_path / "chaos", "http://127.0.0.1:1/send-call-log", intake, admin)
    assert changed.spool.dir == tmp_path / "chaos" / "spool"
    assert (changed.intake.listen, changed.admin.listen) == (intake, admin)
    assert [one.type for one in changed.destinations] == ["http"]
    assert changed.whispey.outbox == ()
    assert changed.webhooks.listen is None, "a webhook that it took would be thrown away with its spool"
    assert (changed.audit.file, changed.traces.endpoint, changed.tenants) == (None, None, {})
    assert (changed.intake.tls_cert_file, changed.admin.tls_cert_file) == (None, None), "it is asked without TLS"
    assert changed.split == settings.split


async def test_a_gateway_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    """The check ends with a sentence, and names the log."""
    gone = GatewayUnderTest(Settings(), f"http://{free_address()}", tmp_path / "gateway.log")
    with pytest.raises(GatewayFailed, match="no longer answers; its log is "):
        await gone.figures()


@pytest.mark.prove
async def test_a_check_finds_the_gateway_sound(tmp_path: Path) -> None:
    """Through kills, cuts and a full spool nothing is lost, and nothing is left behind beside the spool."""
    file = tmp_path / "callspool.toml"
    file.write_text(CONFIGURATION.format(folder=tmp_path), "utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "chaos", "--config", str(file), "--seconds", "4", "--kills", "2", "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(400):
        out, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    report = json.loads(out)
    assert report["filled"]
    assert report["starts"] == 6
    assert report["verdict"]["acknowledged"] == report["verdict"]["delivered"] > 50
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert b"secret" not in out + complaints

"""The audit log: what stands in it, where it is written, and what becomes of lines that cannot be written."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, web
from pytest_aiohttp import AiohttpClient

from config.listeners import AdminSettings
from gateway.admin.api import _as_lines
from gateway.admin.audit import AuditFile, AuditLog, audited
from gateway.admin.auth import token_id
from gateway.admin.permissions import Role
from gateway.logs import LineQueue
from gateway.operations.erasure import ErasureProgress
from gateway.runtime.listening import admin_listener
from tests.admin.admin_app import AUTHORIZED, AdminFigures, AskedSpoolAdmin, spool_admin

OPERATOR, READER = "operator-" * 2, "reader-" * 3
TOKENS = {Role.OPERATE: (OPERATOR,), Role.READ: (READER,)}
JSON = {"Content-Type": "application/json"}


def bearer(token: str) -> dict[str, str]:
    return {**JSON, "Authorization": f"Bearer {token}"}


def audit_file(folder: Path, max_bytes: int = 1 << 20, keep: int = 2) -> AuditFile:
    return AuditFile(folder / "audit.log", max_bytes, keep)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_an_order_and_a_read_say_who_from_where_what_and_what_came_of_it(
    aiohttp_client: AiohttpClient, tmp_path: Path
) -> None:
    """Each is one line with the token's id and never the token; what shows no call log has none."""
    async with spool_admin(tmp_path / "spool", AskedSpoolAdmin) as admin:
        letter = await admin.buried("call-1", reason="HTTP 400")
        audit = AuditLog()
        audit.write_to(audit_file(tmp_path))
        world = AdminFigures(tokens=TOKENS, audit=audit, delivery_admin=admin.delivery_admin)
        client = await aiohttp_client(world.app)
        order = json.dumps({"select": {"target": "call-1"}})
        await client.post("/api/orders/replay", data=order, headers=bearer(OPERATOR))
        await client.get(f"/api/documents/{letter.record.uid}/core/endpoint", headers=bearer(READER))
        await client.post("/api/orders/discard", data=order, headers=bearer(OPERATOR))
        secret = json.dumps({"select": {"target": "call-1"}, "token": "the-new-key-of-the-agent"})
        await client.post("/api/orders/replace-token", data=secret, headers={**JSON, **AUTHORIZED})
        for path in ("/api/deliveries", "/metrics", "/"):
            await client.get(path, headers=bearer(READER))
        await client.get("/api/documents/x/core/y")
        await audit.close()
    replay, read, discard, replaced = lines(tmp_path / "audit.log")
    assert replay.pop("time").startswith("20")
    assert replay == {
        "action": "replay", "role": "operate", "who": f"token {token_id(OPERATOR)}", "from": "127.0.0.1",
        "request": "POST /api/orders/replay", "select": {"target": "call-1"}, "dry_run": False,
        "matched": 1, "done": 1, "outcome": "done", "status": 200,
    }  # fmt: skip
    assert (read["action"], read["who"], read["outcome"]) == ("read-document", f"token {token_id(READER)}", "done")
    assert f"/{letter.record.uid}/core/endpoint" in read["request"]
    assert (discard["outcome"], discard["status"], discard["code"]) == ("refused", 403, "role_needed")
    assert (replaced["role"], replaced["who"]) == ("admin", "the spool's token")
    text = (tmp_path / "audit.log").read_text()
    assert not [secret for secret in (OPERATOR, READER, "the-new-key-of-the-agent") if secret in text]


async def test_a_read_that_fails_is_in_it_too(aiohttp_client: AiohttpClient) -> None:
    """Without a file each line is a message of the log, whatever its level; with the code of the error."""
    client = await aiohttp_client(AdminFigures(tokens=TOKENS).app)
    with structlog.testing.capture_logs() as logged:
        await client.get("/api/documents/x/core/y", headers=bearer(READER))
    (line,) = [each for each in logged if each["event"] == "audit"]
    assert (line["outcome"], line["status"], line["code"]) == ("failed", 503, "spool_unavailable")


def test_the_file_is_private_and_rotates_by_size(tmp_path: Path) -> None:
    """0600, whatever the umask; the oldest of the renamed files goes, and no line is cut in two."""
    file = audit_file(tmp_path, max_bytes=100)
    for number in range(8):
        assert file.write(f"{number}{'x' * 48}\n".encode())
    found = {path.name: [line[0] for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    assert found == {"audit.log": ["6", "7"], "audit.log.1": ["4", "5"], "audit.log.2": ["2", "3"]}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_another_program_may_rotate_it(tmp_path: Path) -> None:
    """Moved or removed, it is made anew at the next line: logrotate needs to send no signal."""
    file, path = audit_file(tmp_path), tmp_path / "audit.log"
    assert file.write(b"1\n")
    path.rename(tmp_path / "moved")
    assert file.write(b"2\n")
    assert path.read_text() == "2\n"
    path.unlink()
    assert file.write(b"3\n")
    assert ((tmp_path / "moved").read_text(), path.read_text()) == ("1\n", "3\n")


@pytest.mark.parametrize("trouble", ["link", "pipe", "folder"])
def test_a_file_that_others_made_is_refused(tmp_path: Path, trouble: str) -> None:
    """A link leads elsewhere, and a pipe to somebody else: neither is written to."""
    path = tmp_path / "audit.log"
    match trouble:
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    with pytest.raises(OSError, match=r"audit\.log"):
        audit_file(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


async def test_lines_that_are_lost_are_counted(aiohttp_client: AiohttpClient, tmp_path: Path) -> None:
    """A file that cannot be written holds up no order, and the metric says how many lines are missing."""
    audit = AuditLog()
    file = audit_file(tmp_path / "folder")
    audit.write_to(file)
    (tmp_path / "folder").rename(tmp_path / "away")
    (tmp_path / "folder").write_text("in its way")
    client = await aiohttp_client(AdminFigures(audit=audit).app)
    with structlog.testing.capture_logs() as logged:
        assert (await client.get("/api/documents/x/core/y", headers=AUTHORIZED)).status == 503
        await audit.close()
    assert audit.dropped == 1
    assert [line["event"] for line in logged].count("audit_log_failed") == 1
    metrics = await (await client.get("/metrics")).text()
    assert "callspool_audit_lines_dropped_total 1.0" in metrics


async def test_a_full_queue_drops_and_counts() -> None:
    """What a stuck disk leaves in memory has a limit."""
    stuck = asyncio.Event()
    loop = asyncio.get_running_loop()

    def write(_data: bytes) -> bool:
        """Return when the disk answers again."""
        return asyncio.run_coroutine_threadsafe(stuck.wait(), loop).result()

    queue = LineQueue(write, name="test", queue_bytes=100)
    for _ in range(10):
        queue.put(b"x" * 20)
    assert queue.dropped == 5
    stuck.set()
    assert await asyncio.to_thread(queue.wait_until_written, 5.0)
    assert queue.dropped == 5


async def test_an_order_ends_with_its_client(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever stops waiting for the report ends the order: that is in the audit log, and no error in the log."""
    ended = asyncio.Event()

    async def without_end() -> AsyncGenerator[ErasureProgress, None]:
        try:
            while True:
                yield ErasureProgress("erasing", 0, 1)
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def order(request: web.Request) -> web.StreamResponse:
        return await audited(AuditLog(), "erase", {}, request, lambda _: _as_lines(request, without_end()), None)

    app = web.Application()
    app.router.add_post("/", order)
    settings = AdminSettings.model_validate({"listen": "127.0.0.1:0"})
    with structlog.testing.capture_logs() as logged:
        async with admin_listener(app, settings, None) as listener, ClientSession() as client:
            answer = await client.post(f"http://127.0.0.1:{listener.port}/")
            await answer.content.readline()
            answer.close()
            await ended.wait()
    assert [(line["action"], line["outcome"]) for line in logged if line["event"] == "audit"] == [("erase", "aborted")]
    assert not caplog.records

"""Receivers: gateways with a store, what agents and sidecars post to them, and what their operators see."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.stores.engines import Engine
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

PATIENCE = 60.0


class Receiver(GatewayProcess):
    """A gateway with a store, and what its operator asks it."""

    def __init__(self, folder: Path, url: str, *, preload: bool = True) -> None:
        environment = {"CALLSPOOL_DATABASE_URL": url, "CALLSPOOL_COMPLETION_SWEEP": "0.2s"}
        super().__init__(folder, environment, preload=preload)

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Status and body, with the token of its spool's directory."""
        token = (self.spool / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession() as session, session.get(self.admin_url + path, headers=headers) as response:
            return response.status, await response.read()

    async def call(self, call_id: str) -> Any:
        """One call; an empty one where it is unknown."""
        status, body = await self.ask(f"/api/calls/{call_id}")
        return json.loads(body) if status == 200 else {}

    async def has(self, call_id: str, state: str = "complete", *, detail: bool = False) -> None:
        """Wait until a call is in this state, with its detail if there is one."""

        async def there() -> bool:
            call = await self.call(call_id)
            return bool(call.get("state") == state and call["has_detail"] >= detail)

        await until(there, f"{call_id} is {state}", deadline=PATIENCE)


def counted(engine: Engine, table: str) -> int:
    """The rows of a table."""
    return int(engine.rows(f"select count(*) from {table}")[0][0])


async def post(gateway: GatewayProcess, body: bytes | Mapping[str, object], path: str = "/v1/calls") -> None:
    reply = await gateway.post(body, path)
    assert reply.status in {200, 202}, reply.json


async def insist(gateway: GatewayProcess, body: bytes | Mapping[str, object]) -> None:
    """Post until it is acknowledged, as an agent's outbox does: through kills, restarts and reloads."""

    async def acknowledged() -> bool:
        try:
            return (await gateway.post(body)).status == 202
        except aiohttp.ClientError:
            return False

    await until(acknowledged, "a post is acknowledged", deadline=PATIENCE)

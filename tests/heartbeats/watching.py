"""A running intake that watches calls by their heartbeats; time passes when a test says so."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.heartbeats.source import HeartbeatSource
from gateway.heartbeats.watch import LOOK_SECONDS, HeartbeatWatch
from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router
from gateway.intake.server import IntakeServer
from gateway.listeners import ListenOptions
from tests.intake.running_intake import DEADLINE, Reply, RunningIntake, running

LOST_AFTER = 60.0


class Ticks:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watching:
    """An intake with heartbeats and turns."""

    def __init__(self, world: RunningIntake, server: IntakeServer, watch: HeartbeatWatch, ticks: Ticks) -> None:
        self.world = world
        self.watch = watch
        self.ticks = ticks
        self._server = server

    async def beat(self, call_id: str = "c", body: Any = b"", **more: Any) -> Reply:
        return await self._post(f"{call_id}/heartbeat", body, **more)

    async def turns(self, *turns: Mapping[str, Any], call_id: str = "c", **more: Any) -> Reply:
        return await self._post(f"{call_id}/turns", {"turns": list(turns), **more.pop("about", {})}, **more)

    async def end(self, call_id: str = "c", *, reason: str = "completed", **more: Any) -> Reply:
        body = {"call_id": call_id, "wcall_event": "call_ended", "call_ended_reason": reason}
        return await self.world.post({**body, **more.pop("body", {})}, "/v1/calls", **more)

    async def _post(self, path: str, body: Any, **more: Any) -> Reply:
        return await self.world.post(body, f"http://127.0.0.1:{self._server.port}/v1/calls/{path}", **more)

    async def later(self, seconds: float) -> None:
        """So many seconds later, with all the looks that fall into them."""
        left = seconds
        while left > 0:
            step = min(left, LOOK_SECONDS)
            self.ticks.now += step
            self.world.clock.now += round(step * 1000)
            left -= step
            await self.watch.look()

    async def call_logs(self, call_id: str = "c") -> list[dict[str, Any]]:
        """What was accepted of a call, in order."""
        return [json.loads(await self.world.stored(traced.record)) for traced in await self.world.spool.trace(call_id)]

    async def rows(self) -> tuple[int, int]:
        """How many live calls and turns are on disk."""
        ask = self.world.spool.reader.ask
        ((calls,),), ((turns,),) = (
            await ask("SELECT count(*) FROM live_calls"),
            await ask("SELECT count(*) FROM live_turns"),
        )
        return calls, turns


@asynccontextmanager
async def watching(directory: Path, *, lost_after: float = LOST_AFTER, **options: Any) -> AsyncIterator[Watching]:
    """An intake with heartbeats. Nobody is lost by itself: tests move the clocks."""
    async with running(directory, **options) as world:
        intake, ticks = world.intake, Ticks()
        watch = HeartbeatWatch(
            world.spool.live, intake.acceptor, intake.reader, lost_after, world.spool.token, world.metrics,
            world.clock, ticks,
        )  # fmt: skip
        await watch.open()
        token = IntakeToken(None, tenants=options.get("tenants"))
        source = HeartbeatSource(intake.reader, intake.workers, watch, intake.acceptor, token)
        router = Router(source.routes())
        handler = IntakeHandler(router, intake.gate, LoopGuard(world.spool.id), token, world.metrics)
        server = IntakeServer(ListenOptions(), handler.handle, intake.gate, world.metrics, intake.connections)
        await server.start()
        try:
            yield Watching(world, server, watch, ticks)
        finally:
            await watch.close()
            await server.stop(DEADLINE)

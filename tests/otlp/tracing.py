"""A running intake that serves `/v1/traces`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router
from gateway.intake.server import IntakeServer
from gateway.listeners import ListenOptions
from gateway.otlp.assembler import ClosingRule, TraceAssembler
from gateway.otlp.source import PROTOBUF, TraceSource
from gateway.otlp.spans import SpanRule
from tests.intake.running_intake import DEADLINE, Reply, RunningIntake, running

RULE = ClosingRule()


class Tracing:
    """A running intake that serves `/v1/traces`; time passes when a test says so."""

    def __init__(self, world: RunningIntake, server: IntakeServer, assembler: TraceAssembler) -> None:
        self.world = world
        self.server = server
        self.assembler = assembler

    async def export(self, body: bytes, kind: str = PROTOBUF, **more: Any) -> Reply:
        url = f"http://127.0.0.1:{self.server.port}/v1/traces"
        return await self.world.post(body, url, headers={"Content-Type": kind, **more.pop("headers", {})}, **more)

    async def later(self, milliseconds: int) -> None:
        """So much later, close what is to be closed then."""
        self.world.clock.now += milliseconds
        await self.assembler.close_due()

    async def call_logs(self, call_id: str) -> list[dict[str, Any]]:
        """What was made of a call, in order."""
        found = []
        for traced in await self.world.spool.trace(call_id):
            pieces = [await self.world.stored(traced.record, fragment) for fragment in traced.record.fragments]
            joined = pieces[0] if len(pieces) == 1 else b"{" + b",".join(piece for piece in pieces if piece) + b"}"
            found.append(json.loads(joined))
        return found


@asynccontextmanager
async def tracing(
    directory: Path, rule: ClosingRule = RULE, spans: SpanRule | None = None, **options: Any
) -> AsyncIterator[Tracing]:
    """An intake with traces. Nothing is closed by itself: tests move the clock."""
    async with running(directory, **options) as world:
        intake = world.intake
        assembler = TraceAssembler(
            world.spool.traces,
            intake.acceptor,
            intake.staging,
            rule,
            spans or SpanRule(),
            world.spool.token,
            world.metrics,
            world.clock,
        )
        await assembler.open()
        source = TraceSource(intake.reader, intake.workers, assembler, spans or SpanRule(), IntakeToken(None))
        handler = IntakeHandler(
            Router(source.routes()), intake.gate, LoopGuard(world.spool.id), IntakeToken(None), world.metrics
        )
        server = IntakeServer(ListenOptions(), handler.handle, intake.gate, world.metrics, intake.connections)
        await server.start()
        try:
            yield Tracing(world, server, assembler)
        finally:
            await server.stop(DEADLINE)

"""`POST /api/salvage`: brings what another database holds into this gateway's spool, and tells of it line by line."""

import asyncio
from contextlib import aclosing

import msgspec
from aiohttp import web

from gateway.admin.access import Access
from gateway.admin.answers import HEADERS, refused
from gateway.admin.sources import Sources
from gateway.salvage.documents import SalvageOrder
from gateway.salvage.work import carry_out

HEARTBEAT_SECONDS = 1.0
"""An empty line, so that whoever waits knows that it goes on: a single record may be large."""

_decode = msgspec.json.Decoder(SalvageOrder).decode
_encode = msgspec.json.Encoder().encode


class SalvageHandler:
    """Takes the order, and stops in the middle when whoever gave it is gone: a repetition goes on."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def add_to(self, app: web.Application, access: Access) -> None:
        """Add the route."""
        app.router.add_post("/api/salvage", access.order(self.take))

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Carry it out, and tell of it as NDJSON."""
        salvages = self._sources.salvages()
        if salvages is None:
            return refused(503, "spool_unavailable", "The spool is not open.", "Try again when /readyz answers 200.")
        try:
            order = _decode(await request.read())
        except msgspec.MsgspecError as error:
            hint = "docs/operating.md describes the requests of the admin API."
            return refused(400, "bad_request", f"The order cannot be meant: {error}.", hint)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with aclosing(carry_out(salvages, order)) as lines:
            following = asyncio.ensure_future(anext(lines, None))
            try:
                while True:
                    done, _ = await asyncio.wait({following}, timeout=HEARTBEAT_SECONDS)
                    if not done:
                        await response.write(b"\n")
                        continue
                    line = following.result()
                    if line is None:
                        break
                    await response.write(_encode(line) + b"\n")
                    following = asyncio.ensure_future(anext(lines, None))
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        await response.write_eof()
        return response

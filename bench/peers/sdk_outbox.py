"""The SDK's own outbox code, unmodified, behind a front and with a worker: how its kind of outbox would carry the load.

    python -m bench.peers.sdk_outbox front PORT | worker SINK_PORT      (WHISPEY_OUTBOX_PATH says where)

The package around it imports an agent framework that neither needs, so that only its two files are loaded.
"""

import asyncio
import importlib
import json
import sys
import types
from importlib.metadata import distribution
from types import ModuleType

import aiohttp
import uvloop
from aiohttp import web

_PAUSE_SECONDS = 0.02
"""After nothing was found: nothing wakes the SDK's worker."""


def _loaded(name: str) -> ModuleType:
    """A file of the SDK, without the package around it."""
    package = types.ModuleType("whispey")
    package.__path__ = [str(distribution("whispey").locate_file("whispey"))]
    sys.modules.setdefault("whispey", package)
    return importlib.import_module(f"whispey.{name}")


def front(port: int) -> None:
    """Answer when the row is written."""
    outbox = _loaded("outbox")

    async def take(request: web.Request) -> web.Response:
        """Write the row, then answer."""
        data = json.loads(await request.read())
        row = {"whispey_data": data, "apikey": "bench", "api_url": None}
        await asyncio.to_thread(outbox.write_entry, data["call_id"], "call_ended", row)
        return web.json_response({"success": True}, status=202)

    async def ready(_: web.Request) -> web.Response:
        """It listens."""
        return web.json_response({"ready": True})

    app = web.Application(client_max_size=0)
    app.router.add_post("/v1/calls", take)
    app.router.add_get("/readyz", ready)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


async def work(sink_port: int) -> None:
    """Drain for ever, by the SDK's own loop over ten rows, each posted plainly over a kept connection."""
    delivery = _loaded("delivery_worker")
    async with aiohttp.ClientSession() as session:

        async def send(data: object, **_: object) -> dict[str, bool]:
            """Post one call log, as the SDK's worker asks for it."""
            url = f"http://127.0.0.1:{sink_port}/dev/send-call-log"
            async with session.post(url, data=json.dumps(data).encode()) as response:
                await response.read()
                return {"success": response.status < 300}

        while True:
            sent, _ = await delivery.drain_outbox(10, send)
            if not sent:
                await asyncio.sleep(_PAUSE_SECONDS)


def main(what: str, port: str) -> None:
    """Be the front or the worker, until SIGTERM."""
    if what == "front":
        front(int(port))
    else:
        uvloop.run(work(int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])

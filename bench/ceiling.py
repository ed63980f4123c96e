"""The ceiling: a bare aiohttp handler that reads the body, forgets it, and answers like the gateway.

    python -m bench.ceiling --port 7719

What callspool adds (checking, splitting, compressing, a commit on disk) costs something; this shows what the same
HTTP library could do at best on the same machine in the same minute.
"""

import argparse
import asyncio
import importlib
from importlib.metadata import requires

from aiohttp import web

_ANSWER = {
    "success": True,
    "call_id": "bench-0000000000",
    "record_id": "0123456789abcdef-1",
    "upload_method": "single",
    "duplicate": False,
    "sha256": "0" * 64,
    "raw_bytes": 2048,
    "stored_bytes": 2048,
    "phase_1_complete": False,
    "phase_2_started": False,
}


async def _take(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response(_ANSWER, status=202)


async def _ready(_: web.Request) -> web.Response:
    return web.json_response({"ready": True})


def application() -> web.Application:
    """The routes of the gateway that a measurement uses."""
    app = web.Application(client_max_size=0)
    app.router.add_post("/v1/calls", _take)
    app.router.add_get("/readyz", _ready)
    return app


def loop_of_the_gateway() -> str:
    """The event loop that the gateway runs on: uvloop where it depends on it, else that of asyncio."""
    needed = requires("callspool") or []
    return "uvloop" if any(line.startswith("uvloop") for line in needed) else "asyncio"


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    module = importlib.import_module(name)
    loop: asyncio.AbstractEventLoop = module.new_event_loop()
    return loop


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.ceiling", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default=loop_of_the_gateway())
    given = parser.parse_args()
    loop = _new_loop(given.loop)
    web.run_app(application(), host="127.0.0.1", port=given.port, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()

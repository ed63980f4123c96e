"""An endpoint that takes requests of any size: a process that writes each body into a folder, under its key.

python -m tests.system.giant_endpoint FOLDER      (prints its URL)
"""

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

_PIECE_BYTES = 1 << 18


async def serve(folder: Path, *, sync: bool) -> None:
    async def take(request: web.Request) -> web.Response:
        encoding = request.headers.get("Content-Encoding", "identity")
        partial = folder / "partial" / request.headers["Idempotency-Key"]
        with partial.open("wb") as file:
            async for piece in request.content.iter_chunked(_PIECE_BYTES):
                file.write(piece)
            if sync:
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        partial.rename(folder / f"{partial.name}.{encoding}")
        return web.json_response({"success": True})

    (folder / "partial").mkdir(parents=True)
    app = web.Application(client_max_size=0)
    app.router.add_post("/dev/send-call-log", take)
    runner = web.AppRunner(app, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/dev/send-call-log", flush=True)  # noqa: T201  # whoever started it reads this
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sync=sys.argv[2:] == ["--sync"]))

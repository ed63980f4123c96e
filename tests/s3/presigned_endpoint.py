"""An endpoint of the tests' own that gives upload addresses, and a storage that takes what is put there."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Presigning:
    """Both in one server. Its behaviour may be changed at any time."""

    url: str = ""
    asked: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    """Headers and JSON of each request for an address."""
    put: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of each upload."""
    tell: Callable[[], dict[str, Any]] | None = None
    """Makes the answer to a request for an address."""
    address_status: int = 200
    put_status: int = 200
    put_body: str = ""

    @property
    def upload_url(self) -> str:
        return self.url.replace("/dev/send-call-log", "/bucket-1/calls/a%2Fb.json?X-Amz-Signature=sec%2Bret")

    async def _address(self, request: web.Request) -> web.Response:
        self.asked.append((dict(request.headers), await request.json()))
        told = self.tell() if self.tell else {"upload_url": self.upload_url, "s3_key": "calls/a/b.json"}
        return web.json_response(told, status=self.address_status)

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.put.append((dict(request.headers) | {":path": request.raw_path}, body))
        return web.Response(status=self.put_status, text=self.put_body)


@asynccontextmanager
async def presigning() -> AsyncIterator[Presigning]:
    endpoint = Presigning()
    application = web.Application(client_max_size=1 << 30)
    application.router.add_post("/dev/get-upload-url", endpoint._address)
    application.router.add_put("/{tail:.*}", endpoint._put)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    endpoint.url = str(server.make_url("/dev/send-call-log"))
    try:
        yield endpoint
    finally:
        await server.close()

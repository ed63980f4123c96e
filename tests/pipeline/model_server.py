"""An OpenAI-compatible server that answers what a test says, and remembers what it was asked."""

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

SUMMARY = {"summary": "The caller has a toothache and gets an appointment.", "sentiment": "neutral", "callback": ""}
Reply = Callable[[web.Request, Any], web.StreamResponse | None]


def answered(content: object, tokens: int = 100, finish: str = "stop", **message: object) -> web.Response:
    """A chat completion that says this."""
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return web.json_response({"choices": [choice], "usage": {"total_tokens": tokens}})


def vectors(*rows: list[float], tokens: int = 5) -> web.Response:
    """Embeddings, as numbers."""
    data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    return web.json_response({"data": data, "usage": {"total_tokens": tokens}})


class ModelServer:
    """`chat` and `embed` say what is answered; what they leave out is answered as it should be."""

    def __init__(self) -> None:
        self.chats: list[Any] = []
        self.embeddings: list[Any] = []
        self.chat: Reply = lambda _request, _body: None
        self.embed: Reply = lambda _request, _body: None
        self.dimensions = 8
        self.delay = 0.0
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embed)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self._server.make_url("/v1"))

    async def __aenter__(self) -> "ModelServer":
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.chats.append(body)
        await asyncio.sleep(self.delay)
        return self.chat(request, body) or answered(SUMMARY)

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.embeddings.append(body)
        told = self.embed(request, body)
        if told is not None:
            return told
        rows = [[1.0 + len(text) % 7, *[0.5] * (self.dimensions - 1)] for text in body["input"]]
        packed = [base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in rows]
        data = [{"index": index, "embedding": row} for index, row in enumerate(packed)]
        return web.json_response({"data": data, "usage": {"total_tokens": 5}})

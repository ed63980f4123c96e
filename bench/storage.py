"""Upload addresses as an endpoint gives them, and the storage behind: each is good for one key and one content type.

POST .../get-upload-url {"call_id", "content_type"}  ->  {"upload_url", "s3_key", "s3_bucket"}
PUT upload_url                                       ->  200; 403 for an address that was not given
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

BUCKET = "calls"
FOLDER = "/_storage/"
CONTENT_TYPE = "application/json"

Presign = Callable[[str], Awaitable[str]]
"""From a key to an address of a real storage."""


@dataclass
class Storage:
    """What was asked for and what was put."""

    presign: Presign | None = None
    """Makes addresses elsewhere; None: this server takes what is put."""
    bucket: str = BUCKET
    asked: list[str] = field(default_factory=list)
    """The call ids of all requests for an address."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """What was put, by key."""

    def __post_init__(self) -> None:
        self._given: dict[str, str] = {}

    async def give(self, request: web.Request, token: str | None) -> web.Response:
        """Answer a request for an address; 401 for any other token, where one is set."""
        if token is not None and request.headers.get("x-pype-token") != token:
            return web.json_response({"success": False, "error": "Invalid token"}, status=401)
        wanted = await request.json()
        self.asked.append(wanted["call_id"])
        key = f"uploads/{wanted['call_id']}/{secrets.token_hex(4)}.json"
        url = await self.presign(key) if self.presign else self._address(request, key)
        return web.json_response({"upload_url": url, "s3_key": key, "s3_bucket": self.bucket})

    async def take(self, request: web.Request) -> web.Response:
        """Store what is put, if the address was given and the request is as it was signed for."""
        key = request.match_info["key"]
        signed = self._given.get(request.query.get("signature", "")) == key
        if not signed or request.headers.get("Content-Type") != CONTENT_TYPE or request.content_length is None:
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
        self.objects[key] = bytes(body)
        return web.Response()

    def _address(self, request: web.Request, key: str) -> str:
        signature = secrets.token_hex(16)
        self._given[signature] = key
        address = request.url.origin().with_path(f"{FOLDER}{key}")
        return str(address.with_query({"signature": signature, "X-Amz-Expires": "900"}))

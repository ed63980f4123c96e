"""The connection to one S3 server: made at the first use, and made anew when its credentials turn out to be bad.

Credentials come by the usual AWS chain: environment, profile, web identity, container, instance role. Temporary ones
are refreshed by botocore; others are read again after the server refused them.
"""

import asyncio
import io
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.handlers import add_expect_header

from uploaders.s3.errors import translated
from uploaders.s3.options import S3Options

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

DEFAULT_REGION = "us-east-1"
AT_ONCE_BYTES = 1 << 20
"""A body up to this goes out at once. Before a larger one the server is asked, unless it did what the last request
wanted: a refusal is heard before the body breaks the connection, and while all is well no round trip is lost."""
_MODELS = ("service-2", "endpoint-rule-set-1")


class _Sent(TypedDict):
    """What botocore's event tells of a request, as far as it is looked at."""

    body: object
    headers: dict[str, str]


class _Answered(Protocol):
    """What botocore's event tells of an answer, as far as it is looked at."""

    status_code: int


class S3Connection:
    """Gives a client for the configured server; connections are kept and reused."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._lock = asyncio.Lock()
        self._client: S3Client | None = None
        self._stack = AsyncExitStack()
        self._retired: list[AsyncExitStack] = []
        self._asks = True
        """Whether the server is asked before a large body: at first, and after every failure."""

    async def client(self) -> "S3Client":
        """The client. Raises `S3Failure` when the configured profile or authorities cannot be read."""
        async with self._lock:
            if self._client is None:
                with translated("Connect"):
                    self._client = await self._connect()
            return self._client

    def renew(self, refused: "S3Client | None") -> None:
        """Look credentials up anew at the next use, unless that happened since `refused` was given.

        Requests that are under way keep their connections until `close`.
        """
        if self._client is not None and self._client is refused:
            self._client = None
            self._retired.append(self._stack)
            self._stack = AsyncExitStack()

    async def close(self) -> None:
        """Close all connections."""
        self._client = None
        for stack in (*self._retired, self._stack):
            await stack.aclose()
        self._retired.clear()

    async def _connect(self) -> "S3Client":
        core = AioSession(profile=self._options.profile)
        await asyncio.to_thread(_load_models, core)
        session = aioboto3.Session(botocore_session=core)
        region = self._options.region or session.region_name or DEFAULT_REGION
        client = await self._stack.enter_async_context(
            session.client(
                "s3",
                region_name=region,
                endpoint_url=self._options.endpoint_url,
                verify=str(self._options.ca_file) if self._options.ca_file else None,
                config=client_config(self._options),
            )
        )
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register("before-call.s3", self._ask_before_large_bodies)
        client.meta.events.register("after-call.s3", self._answered)
        client.meta.events.register("after-call-error.s3", self._failed)
        return client

    def _ask_before_large_bodies(self, params: _Sent, **_: object) -> None:
        """Botocore asks before every body (`Expect: 100-continue`), which takes a round trip even for 2 KB."""
        body = params.get("body")
        if self._asks and isinstance(body, io.BytesIO) and body.getbuffer().nbytes > AT_ONCE_BYTES:
            params["headers"]["Expect"] = "100-continue"

    def _answered(self, http_response: _Answered, **_: object) -> None:
        """A server that does what it is told will take the next body, too."""
        self._asks = http_response.status_code >= HTTPStatus.BAD_REQUEST

    def _failed(self, **_: object) -> None:
        """A broken connection may have been a refusal that was not heard."""
        self._asks = True


def client_config(options: S3Options) -> AioConfig:
    """How requests are made. Retries are the dispatcher's business, which knows about the other deliveries."""
    style: Literal["path", "auto"] = "path" if options.addresses_by_path else "auto"
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"total_max_attempts": 1},
        max_pool_connections=64,
        user_agent_extra="callspool",
        # Each body goes with a checksum in a header. The default, a checksum behind the body, is refused by many
        # servers, and to sign the SHA-256 of a part, too, would hold up the event loop.
        s3={"addressing_style": style, "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _load_models(session: AioSession) -> None:
    """Read the descriptions of S3 into the session's cache: 70 ms that would hold up the event loop."""
    loader = session.get_component("data_loader")
    for model in _MODELS:
        loader.load_service_model("s3", model)
    for name in ("endpoints", "partitions", "_retry"):
        loader.load_data(name)

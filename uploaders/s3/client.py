"""The connection to one S3 server: made at the first use, and made anew when its credentials turn out to be bad.

Credentials come by the usual AWS chain: environment, profile, web identity, container, instance role. Temporary ones
are refreshed by botocore; others are read again after the server refused them.
"""

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from dataclasses import replace as changed
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, TypeVar

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from uploaders.base import Refused, Scope
from uploaders.http.timeouts import Phase, TimedOut
from uploaders.s3.errors import BadCredentials, OtherTenantsObject, S3Failure, translated
from uploaders.s3.object import (
    RECORD_UID,
    TENANT,
    Attributes,
    Checksum,
    ChecksumKind,
    ChecksumMode,
    WholeChecksum,
    customer_key,
    only_new,
    percent_encoded,
    stored_parameters,
)
from uploaders.s3.options import S3Options
from uploaders.s3.parts import Fingerprint, ObjectState, Part, PartData, encoded_crc32, encoded_md5

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef


DEFAULT_REGION = "us-east-1"
MAX_AGE_SECONDS = 15 * 60.0
"""Then the client is replaced, and with it its connections: under steady traffic they would never be idle, and lead to
an address that the server's name left long ago. Making a client takes some 60 ms."""
AT_ONCE_BYTES = 1 << 20
"""A body up to this goes out at once. Before a larger one the server is asked, unless it did what the last request
wanted: a refusal is heard before the body breaks the connection, and while all is well no round trip is lost."""
_MODELS = ("service-2", "endpoint-rule-set-1")


class _Sent(TypedDict):
    """The part of botocore's request event that is used."""

    body: object
    headers: dict[str, str]


class _Answered(Protocol):
    """The part of botocore's response event that is used."""

    status_code: int


class S3Connection:
    """Gives a client for the configured server; connections are kept and reused."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._lock = asyncio.Lock()
        self._client: S3Client | None = None
        self._opened_at = 0.0
        self._stack = AsyncExitStack()
        self._in_use: Counter[S3Client] = Counter()
        self._retired: dict[S3Client, AsyncExitStack] = {}
        """Clients that were replaced, until their last requests end."""
        self._asks = True
        """Whether the server is asked before a large body: at first, and after every failure."""

    async def client(self) -> "S3Client":
        """The client. Raises `S3Failure` when the configured profile or authorities cannot be read."""
        async with self._lock:
            if time.monotonic() - self._opened_at > MAX_AGE_SECONDS:
                self.renew(self._client)
                await self._close_retired()
            if self._client is None:
                with translated("Connect"):
                    self._client = await self._connect()
                self._opened_at = time.monotonic()
            return self._client

    @asynccontextmanager
    async def lease(self) -> AsyncIterator["S3Client"]:
        """The client for one request: one that is replaced meanwhile is closed after its last request."""
        client = await self.client()
        self._in_use[client] += 1
        try:
            yield client
        finally:
            self._in_use[client] -= 1
            if not self._in_use[client]:
                del self._in_use[client]
            await self._close_retired()

    def renew(self, refused: "S3Client | None") -> None:
        """Look credentials up anew at the next use, unless that happened since `refused` was given."""
        if self._client is not None and self._client is refused:
            self._retired[self._client] = self._stack
            self._client = None
            self._stack = AsyncExitStack()

    async def close(self) -> None:
        """Close all connections."""
        self._client = None
        for stack in (*self._retired.values(), self._stack):
            await stack.aclose()
        self._retired.clear()

    async def _close_retired(self) -> None:
        """Close what was replaced and has no request under way."""
        for stack in [self._retired.pop(each) for each in list(self._retired) if each not in self._in_use]:
            await stack.aclose()

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
        """A server that accepted a request will accept the next body, too."""
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


# The requests to a bucket, each a method with plain data and errors of this package.
#
# Every method raises `S3Failure` or one of its kinds.

T = TypeVar("T")

READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ListedPart:
    """A part that the server has; `etag` without its quotes."""

    size: int
    etag: str


class Bucket:
    """One bucket, reached through a connection."""

    def __init__(self, options: S3Options, connection: S3Connection) -> None:
        self._options = options
        self._connection = connection
        self.name = options.bucket

    def called(self, name: str) -> "Bucket":
        """Another bucket of the same server."""
        return self if name == self.name else Bucket(changed(self._options, bucket=name), self._connection)

    async def put(self, key: str, part: Part, attributes: Attributes, *, replace: bool) -> str | None:
        """Store an object in one request; raises `ObjectExists` unless it may `replace` one.

        Returns the CRC-32 that the answer tells of what was stored, as S3 writes it, if it does.
        """
        part.data.seek(0)
        async with self._request("PutObject", part.data) as client:
            response = await client.put_object(
                Bucket=self.name,
                Key=key,
                Body=part.data,
                **self._checksum(part),
                **only_new(not replace),
                **stored_parameters(self._options, attributes),
                **customer_key(self._options),
            )
            self._check_encrypted("PutObject", response.get("SSECustomerAlgorithm"))
        return response.get("ChecksumCRC32")

    async def head(self, key: str) -> ObjectState:
        """The size, ETag, checksum and record of an object. Raises `NoSuchObject`."""
        async with self._request("HeadObject") as client:
            response = await client.head_object(
                Bucket=self.name, Key=key, **self._checksum_mode(), **customer_key(self._options)
            )
            size = _required(response.get("ContentLength"), "Content-Length")
        record_uid = response.get("Metadata", {}).get(RECORD_UID)
        return ObjectState(size, _bare(response.get("ETag", "")), response.get("ChecksumCRC32"), record_uid)

    async def read(self, key: str, tenants: Collection[str] | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of an object, in chunks. Raises `NoSuchObject`.

        With `tenants`, an object whose metadata names another one raises `OtherTenantsObject`.
        """
        async with self._request("GetObject") as client:
            response = await client.get_object(Bucket=self.name, Key=key, **customer_key(self._options))
            async with response["Body"]:
                named = response.get("Metadata", {}).get(TENANT)
                if tenants is not None and named is not None and named not in map(percent_encoded, tenants):
                    raise OtherTenantsObject(
                        Refused("the object is of a call of another tenant"), operation="GetObject"
                    )
                async for chunk in response["Body"].iter_chunks(READ_BYTES):
                    yield chunk

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is as good."""
        async with self._request("DeleteObject") as client:
            await client.delete_object(Bucket=self.name, Key=key)

    async def keys(self, prefix: str) -> AsyncGenerator[str, None]:
        """The keys of all objects that begin so, a thousand a request."""
        token = ""
        while True:
            async with self._request("ListObjectsV2") as client:
                if token:
                    response = await client.list_objects_v2(Bucket=self.name, Prefix=prefix, ContinuationToken=token)
                else:
                    response = await client.list_objects_v2(Bucket=self.name, Prefix=prefix)
            for one in response.get("Contents", ()):
                yield one["Key"]
            token = response.get("NextContinuationToken", "")
            if not token:
                return

    async def keeps_versions(self) -> bool:
        """Whether a deleted object stays as an older version. A server that does not know of versions has none."""
        try:
            async with self._request("GetBucketVersioning") as client:
                response = await client.get_bucket_versioning(Bucket=self.name)
        except S3Failure:
            return False
        return response.get("Status") in {"Enabled", "Suspended"}

    # Uploads in parts ------------------------------------------------------------------------------------------

    async def begin(self, key: str, attributes: Attributes) -> str:
        """Begin an upload in parts; returns its id."""
        async with self._request("CreateMultipartUpload") as client:
            response = await client.create_multipart_upload(
                Bucket=self.name,
                Key=key,
                **self._checksum_kind(),
                **stored_parameters(self._options, attributes),
                **customer_key(self._options),
            )
            return _required(response.get("UploadId"), "UploadId")

    async def send_part(self, key: str, upload_id: str, part: Part) -> str:
        """Send a part; returns its ETag without quotes. Raises `NoSuchUpload`."""
        part.data.seek(0)
        async with self._request("UploadPart", part.data) as client:
            response = await client.upload_part(
                Bucket=self.name,
                Key=key,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=part.data,
                **self._checksum(part),
                **customer_key(self._options),
            )
            self._check_encrypted("UploadPart", response.get("SSECustomerAlgorithm"))
            return _bare(_required(response.get("ETag"), "ETag"))

    async def parts(self, key: str, upload_id: str) -> dict[int, ListedPart]:
        """The parts that the server has, by number. Raises `NoSuchUpload`."""
        listed: dict[int, ListedPart] = {}
        more, marker = True, 0
        while more:
            async with self._request("ListParts") as client:
                response = await client.list_parts(
                    Bucket=self.name, Key=key, UploadId=upload_id, PartNumberMarker=marker
                )
            page = {one["PartNumber"]: ListedPart(one["Size"], _bare(one["ETag"])) for one in response.get("Parts", ())}
            listed |= page
            marker = max(page, default=marker)
            more = response.get("IsTruncated", False) and bool(page)
        return listed

    async def complete(
        self, key: str, upload_id: str, etags: Sequence[str], sent: Fingerprint, *, replace: bool
    ) -> str | None:
        """Make an object of the parts; returns and raises what `put` does, and raises `NoSuchUpload`."""
        parts: list[CompletedPartTypeDef] = []
        for number, (etag, crc32) in enumerate(zip(etags, sent.part_crc32s, strict=True), 1):
            parts.append({"PartNumber": number, "ETag": f'"{etag}"'})
            if self._options.checksums:
                parts[-1]["ChecksumCRC32"] = encoded_crc32(crc32)
        async with self._request("CompleteMultipartUpload") as client:
            response = await client.complete_multipart_upload(
                Bucket=self.name,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                **self._whole_checksum(sent),
                **only_new(not replace),
                **customer_key(self._options),
            )
        return response.get("ChecksumCRC32")

    async def abort(self, key: str, upload_id: str) -> None:
        """Give an upload up and free what its parts take. Raises `NoSuchUpload`."""
        async with self._request("AbortMultipartUpload") as client:
            await client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload_id)

    async def uploads(self, key: str) -> tuple[str, ...]:
        """The ids of the uploads under way for exactly this key, of the first thousand that begin like it."""
        async with self._request("ListMultipartUploads") as client:
            response = await client.list_multipart_uploads(Bucket=self.name, Prefix=key)
        return tuple(one["UploadId"] for one in response.get("Uploads", ()) if one["Key"] == key)

    async def all_uploads(self, prefix: str) -> AsyncGenerator[tuple[str, str], None]:
        """The keys and ids of all uploads under way whose keys begin so, a thousand a request."""
        key = upload_id = ""
        while True:
            async with self._request("ListMultipartUploads") as client:
                if key:
                    response = await client.list_multipart_uploads(
                        Bucket=self.name, Prefix=prefix, KeyMarker=key, UploadIdMarker=upload_id
                    )
                else:
                    response = await client.list_multipart_uploads(Bucket=self.name, Prefix=prefix)
            for one in response.get("Uploads", ()):
                yield one["Key"], one["UploadId"]
            before = (key, upload_id)
            key, upload_id = response.get("NextKeyMarker", ""), response.get("NextUploadIdMarker", "")
            if not response.get("IsTruncated") or not key or (key, upload_id) == before:
                return

    # ------------------------------------------------------------------------------------------------------------

    def _checksum(self, part: Part) -> Checksum:
        """What the server is to check a body by."""
        if self._options.checksums:
            return Checksum(ChecksumCRC32=encoded_crc32(part.crc32))
        return Checksum(ContentMD5=encoded_md5(part.md5))

    def _checksum_mode(self) -> ChecksumMode:
        """Whether a HEAD asks for checksums: a server that rejects them in uploads may reject the question, too."""
        return ChecksumMode(ChecksumMode="ENABLED") if self._options.checksums else ChecksumMode()

    def _checksum_kind(self) -> ChecksumKind:
        """The checksums that the start of a multipart upload announces."""
        if not self._options.checksums:
            return ChecksumKind()
        return ChecksumKind(ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")

    def _whole_checksum(self, sent: Fingerprint) -> WholeChecksum:
        """What the server is to check the joined parts by."""
        if not self._options.checksums:
            return WholeChecksum()
        return WholeChecksum(
            ChecksumCRC32=encoded_crc32(sent.crc32), ChecksumType="FULL_OBJECT", MpuObjectSize=sent.size
        )

    def _check_encrypted(self, operation: str, algorithm: str | None) -> None:
        """Raises `S3Failure` where the server did not encrypt by our key, although it took it: some ignore headers."""
        if self._options.customer_key is not None and algorithm is None:
            reason = (
                f"{operation}: the server ignored the key and did not encrypt: it does not support "
                'encryption = "customer" (SSE-C), and has the object in clear: delete it there'
            )
            raise S3Failure(Refused(reason, Scope.DESTINATION), operation=operation)

    @asynccontextmanager
    async def _request(self, operation: str, body: PartData | None = None) -> AsyncIterator["S3Client"]:
        """A client for one request, whose errors become those of this package."""
        async with self._connection.lease() as client:
            try:
                with translated(operation):
                    seconds = self._options.request_timeout
                    try:
                        async with asyncio.timeout(seconds) as timer:
                            if body is not None:
                                body.timer = timer
                            yield client
                    except TimeoutError as error:
                        if timer.expired():
                            raise TimedOut(Phase.ANSWER, "request_timeout", seconds) from error
                        raise
            except BadCredentials:
                self._connection.renew(client)
                raise


def _required(response: T | None, name: str) -> T:
    """What an answer must hold: a proxy's or another server's page may come with a 200, too."""
    if response is None:
        raise ResponseParserError(f"there is no {name} in the answer")
    return response


def _bare(etag: str) -> str:
    return etag.strip('"')

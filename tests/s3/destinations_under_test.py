"""Each kind of uploader with something real to deliver to, as the conformance suite sees it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.clickhouse_server import ClickHouseServer
from bench.endpoint import Endpoint
from bench.kafka_servers import create_topics
from bench.postgres_server import PostgresServer
from bench.s3_server import Server, free_ports
from spool.records import Form
from tests.kafka.clusters import PARTITIONS, Cluster
from tests.s3.presigned_endpoint import presigning
from tests.s3.stored_objects import Store, objects, options
from tests.spool.spool_parts import decoded
from tests.stores.calls import RULE, document_of
from tests.stores.engines import ClickHouseEngine, Engine, PostgresEngine, SqliteEngine
from tests.stores.writing import Counts
from tests.uploaders.deliveries import ACCEPTED_AT, Payloads
from uploaders.base import SilentObserver, Uploader
from uploaders.file import FileUploader
from uploaders.http.uploader import HttpOptions, HttpUploader
from uploaders.kafka.uploader import KafkaUploader
from uploaders.presigned import PresignedOptions, PresignedUploader
from uploaders.s3.uploader import S3Uploader
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import CallQuery
from uploaders.stores.store import Store as CallStore
from uploaders.stores.uploader import StoreUploader

KINDS = ("file", "http", "s3", "presigned", "kafka", "sqlite", "postgres", "clickhouse")


@dataclass
class Subject:
    """One uploader, and a way to look at what arrived."""

    uploader: Uploader
    forms: frozenset[Form]
    """What it delivers."""
    arrived: Callable[[], Awaitable[list[bytes]]]
    """The documents at the destination, in any order; one that came twice under one key counts once."""
    unreachable: Uploader
    """The same kind, with nobody to deliver to."""


@dataclass(frozen=True)
class Servers:
    """Databases that are started when they are first asked for."""

    postgres: Callable[[str], PostgresServer]
    clickhouse: Callable[[], ClickHouseServer]


@asynccontextmanager
async def subject(
    kind: str,
    payloads: Payloads,
    tmp_path: Path,
    weed: Server,
    bucket: str,
    store: Store,
    servers: Servers,
    broker: str,
) -> AsyncIterator[Subject]:
    """The uploader of this kind, closed at the end."""
    async with AsyncExitStack() as stack:
        if kind == "file":
            made = _file(payloads, tmp_path)
        elif kind == "http":
            made = _http(payloads, await stack.enter_async_context(Endpoint()))
        elif kind == "presigned":
            made = await stack.enter_async_context(_presigned(payloads))
        elif kind == "kafka":
            made = _kafka(payloads, broker)
        elif kind == "sqlite":
            (tmp_path / "blocked").write_bytes(b"a file where the directory should be")
            nobody = SqliteStore(tmp_path / "blocked" / "calls.db", lambda: ACCEPTED_AT, RULE)
            made = _store(payloads, tmp_path, SqliteEngine(tmp_path), nobody)
        elif kind == "postgres":
            engine = PostgresEngine(servers.postgres("18"), f"test_{uuid.uuid4().hex}")
            made = _store(payloads, tmp_path, engine, _no_server())
        elif kind == "clickhouse":
            clickhouse = ClickHouseEngine(servers.clickhouse(), f"test_{uuid.uuid4().hex}")
            made = _store(payloads, tmp_path, clickhouse, _no_clickhouse())
        else:
            made = _s3(payloads, weed, bucket, store)
        try:
            yield made
        finally:
            await made.uploader.close()
            await made.unreachable.close()


def _file(payloads: Payloads, tmp_path: Path) -> Subject:
    directory = tmp_path / "delivered"

    async def arrived() -> list[bytes]:
        return [_decoded(path.name, path.read_bytes()) for path in directory.rglob("*.json*")]

    (tmp_path / "blocked").write_bytes(b"a file where the directory should be")
    forms = frozenset({Form.WHOLE, Form.CORE, Form.DETAIL})
    return Subject(FileUploader(directory, payloads), forms, arrived, FileUploader(tmp_path / "blocked", payloads))


def _http(payloads: Payloads, endpoint: Endpoint) -> Subject:
    async def arrived() -> list[bytes]:
        return list(endpoint.documents.values())

    uploader, unreachable = (
        HttpUploader(HttpOptions(url), payloads, lambda: ACCEPTED_AT) for url in (endpoint.url, _nobody())
    )
    return Subject(uploader, frozenset(Form), arrived, unreachable)


@asynccontextmanager
async def _presigned(payloads: Payloads) -> AsyncIterator[Subject]:
    async with presigning() as endpoint:

        async def arrived() -> list[bytes]:
            return list({json.loads(body)["call_id"]: body for _, body in endpoint.put}.values())

        uploader, unreachable = (
            PresignedUploader(PresignedOptions(url), payloads, lambda: ACCEPTED_AT, SilentObserver())
            for url in (endpoint.url, _nobody())
        )
        yield Subject(uploader, frozenset({Form.WHOLE}), arrived, unreachable)


def _s3(payloads: Payloads, weed: Server, bucket: str, store: Store) -> Subject:
    async def arrived() -> list[bytes]:
        return [stored.document for stored in await objects(weed, bucket)]

    uploader, unreachable = (
        S3Uploader(chosen, payloads, store.spool.uploader_state)
        for chosen in (options(weed, bucket), options(weed, bucket, endpoint_url=_nobody()))
    )
    return Subject(uploader, frozenset({Form.WHOLE, Form.CORE, Form.DETAIL}), arrived, unreachable)


def _kafka(payloads: Payloads, broker: str) -> Subject:
    """A message whose report was not seen is written again under the same key."""
    cluster = Cluster(broker)
    create_topics(broker, list(cluster.topics.read), PARTITIONS)

    async def arrived() -> list[bytes]:
        messages = await asyncio.to_thread(cluster.messages)
        return list({message.headers["idempotency-key"]: message.value for message in messages}.values())

    taking_all = replace(cluster.options, max_message_bytes=10_000_000)
    (port,) = free_ports(1)
    nobody = replace(taking_all, brokers=(f"127.0.0.1:{port}",), delivery_timeout=1.0)
    uploader, unreachable = (KafkaUploader(chosen, payloads) for chosen in (taking_all, nobody))
    return Subject(uploader, frozenset({Form.WHOLE, Form.CORE, Form.DETAIL, Form.NOTICE}), arrived, unreachable)


def _store(payloads: Payloads, tmp_path: Path, engine: Engine, nobody: CallStore) -> Subject:
    """A record is one part of its kind, so a whole and a core of it are the same one here."""

    async def arrived() -> list[bytes]:
        reading = engine.store()
        calls = [await reading.call("", call.call_id) for call in await reading.calls(CallQuery())]
        documents = {part.document for call in calls if call for part in call.parts if part.document}
        for call in calls:
            if call and call.summary.has_detail:
                documents.add(await document_of(reading.detail("", call.summary.call_id)))
        await reading.close()
        return list(documents)

    uploader, unreachable = (
        StoreUploader("db", store, payloads, Counts(), tmp_path, 10) for store in (engine.store(), nobody)
    )
    return Subject(uploader, frozenset({Form.CORE, Form.DETAIL, Form.NOTICE}), arrived, unreachable)


def _no_server() -> CallStore:
    from uploaders.stores.postgres.store import PostgresStore

    (port,) = free_ports(1)
    return PostgresStore(f"postgresql://127.0.0.1:{port}/calls", RULE)


def _no_clickhouse() -> CallStore:
    from uploaders.stores.clickhouse.store import ClickHouseStore

    (port,) = free_ports(1)
    return ClickHouseStore(f"clickhouse://127.0.0.1:{port}/calls", lambda: ACCEPTED_AT, RULE)


def _nobody() -> str:
    (port,) = free_ports(1)
    return f"http://127.0.0.1:{port}/dev/send-call-log"


def _decoded(name: str, data: bytes) -> bytes:
    return decoded(data) if name.endswith(".zst") else data

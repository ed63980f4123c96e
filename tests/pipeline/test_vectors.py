"""Vector stores: one set of rules for SQLite, pgvector, Qdrant and Pinecone."""

import math
import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.postgres_server import PostgresServer
from tests.stores.engines import PostgresEngine, SqliteEngine
from uploaders.pipeline.local import LocalModels
from uploaders.pipeline.models import ModelError, ModelRefused, ModelUnavailable, VectorStore
from uploaders.pipeline.vectors import PgVectors, PineconeVectors, QdrantVectors, SqliteVectors, point_id
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.postgres.store import PostgresStore
from uploaders.stores.sqlite.store import SqliteStore

DIMENSIONS = 8


def vector(*numbers: float) -> bytes:
    """Of length 1."""
    padded = [*numbers, *[0.0] * (DIMENSIONS - len(numbers))]
    length = math.sqrt(sum(each * each for each in padded))
    return struct.pack(f"<{DIMENSIONS}f", *[each / length for each in padded])


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


class VectorServer:
    """As much of Qdrant's and of Pinecone's REST interfaces as their manuals say of what is used here."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.points: dict[str, tuple[list[float], dict[str, Any]]] = {}
        self.tokens: set[str | None] = set()
        app = web.Application()
        app.router.add_get("/collections/calls", self._collection)
        app.router.add_put("/collections/calls", self._create)
        app.router.add_put("/collections/calls/index", self._ok)
        app.router.add_put("/collections/calls/points", self._put)
        app.router.add_post("/collections/calls/points/query", self._query)
        app.router.add_post("/collections/calls/points/delete", self._delete)
        app.router.add_post("/describe_index_stats", self._stats)
        app.router.add_post("/vectors/upsert", self._upsert)
        app.router.add_post("/query", self._pinecone_query)
        app.router.add_post("/vectors/delete", self._pinecone_delete)
        self.server = TestServer(app)

    async def _ok(self, _request: web.Request) -> web.Response:
        return web.json_response({"result": True, "status": "ok"})

    async def _collection(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("api-key"))
        if self.size is None:
            return web.json_response({"status": {"error": "Not found: Collection `calls` doesn't exist!"}}, status=404)
        config = {"params": {"vectors": {"size": self.size, "distance": "Cosine"}}}
        return web.json_response({"result": {"config": config}})

    async def _create(self, request: web.Request) -> web.Response:
        self.size = (await request.json())["vectors"]["size"]
        return await self._ok(request)

    async def _put(self, request: web.Request) -> web.Response:
        for point in (await request.json())["points"]:
            self.points[point["id"]] = (point["vector"], point["payload"])
        return await self._ok(request)

    async def _query(self, request: web.Request) -> web.Response:
        asked = await request.json()
        ((condition),) = asked["filter"]["must"]
        found: list[dict[str, Any]] = [
            {"id": name, "score": cosine(row, asked["query"]), "payload": payload}
            for name, (row, payload) in self.points.items()
            if payload[condition["key"]] == condition["match"]["value"]
        ]
        found.sort(key=lambda each: -each["score"])
        return web.json_response({"result": {"points": found[: asked["limit"]]}})

    async def _delete(self, request: web.Request) -> web.Response:
        for name in (await request.json())["points"]:
            self.points.pop(name, None)
        return await self._ok(request)

    async def _stats(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("Api-Key"))
        return web.json_response({"dimension": self.size or DIMENSIONS, "namespaces": {}})

    async def _upsert(self, request: web.Request) -> web.Response:
        body = await request.json()
        for record in body["vectors"]:
            self.points[f"{body['namespace']}/{record['id']}"] = (record["values"], record["metadata"])
        return web.json_response({"upsertedCount": len(body["vectors"])})

    async def _pinecone_query(self, request: web.Request) -> web.Response:
        asked = await request.json()
        found: list[dict[str, Any]] = [
            {"id": name, "score": cosine(row, asked["vector"]), "metadata": metadata}
            for name, (row, metadata) in self.points.items()
            if name.startswith(f"{asked['namespace']}/")
        ]
        found.sort(key=lambda each: -each["score"])
        return web.json_response({"matches": found[: asked["topK"]]})

    async def _pinecone_delete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        names = [f"{asked['namespace']}/{name}" for name in asked["ids"]]
        if not any(name.startswith(f"{asked['namespace']}/") for name in self.points):
            return web.json_response({"code": 5, "message": "Namespace not found"}, status=404)
        for name in names:
            self.points.pop(name, None)
        return web.json_response({})


@pytest.fixture
async def vector_server() -> AsyncIterator[VectorServer]:
    made = VectorServer()
    await made.server.start_server()
    yield made
    await made.server.close()


@pytest.fixture(params=["sqlite", "postgres", "qdrant", "pinecone"])
async def vectors(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    local: LocalModels,
    vector_server: VectorServer,
    postgres_servers: Callable[[str], PostgresServer],
) -> AsyncIterator[VectorStore]:
    """Each implementation, prepared."""
    url = str(vector_server.server.make_url(""))
    store: SqliteStore | PostgresStore | None = None
    made: VectorStore
    if request.param == "qdrant":
        made = QdrantVectors(url, "key", "calls", 5.0)
    elif request.param == "pinecone":
        made = PineconeVectors(url, "key", 5.0)
    elif request.param == "postgres":
        # The extension lies in `public`, as wherever it was made once.
        engine = PostgresEngine(postgres_servers("18"), f"test_{uuid4().hex}")
        engine.change("create extension if not exists vector schema public")
        engine.url += ",public"
        store = engine.store()
        made = PgVectors(store, "model")
    else:
        sqlite = SqliteEngine(tmp_path)
        store = sqlite.store()
        await store.open()
        made = SqliteVectors(store, sqlite.path, local, "model")
    await made.prepare(DIMENSIONS)
    yield made
    await made.close()
    if store is not None:
        await store.close()


async def test_the_nearest_come_first_with_their_similarity(vectors: VectorStore) -> None:
    """1 for the same direction, 0 for a right angle; no more than were asked for."""
    await vectors.put("", "same", vector(1, 0))
    await vectors.put("", "near", vector(1, 0.5))
    await vectors.put("", "far", vector(0, 1))
    found = await vectors.nearest("", vector(2, 0), 2)
    assert [call_id for call_id, _ in found] == ["same", "near"]
    assert [score for _, score in found] == pytest.approx([1.0, 2 / math.sqrt(5)], abs=1e-5)


async def test_a_call_has_one_vector(vectors: VectorStore) -> None:
    """Written again it is replaced; forgotten it is gone; forgetting what is not there is no error."""
    await vectors.put("", "c", vector(1, 0))
    await vectors.put("", "c", vector(0, 1))
    ((call_id, score),) = await vectors.nearest("", vector(0, 1), 10)
    assert call_id == "c"
    assert score == pytest.approx(1.0, abs=1e-5)
    await vectors.forget("", "c")
    await vectors.forget("", "c")
    await vectors.forget("nobody", "c")
    assert list(await vectors.nearest("", vector(0, 1), 10)) == []


async def test_tenants_find_their_own_alone(vectors: VectorStore) -> None:
    """The same ids of two tenants are two calls; ids may hold anything."""
    odd = "id with / and ' and \N{GREEK SMALL LETTER ALPHA}"
    await vectors.put("a", odd, vector(1, 0))
    await vectors.put("b", odd, vector(0, 1))
    await vectors.put("Älter & Co", odd, vector(1, 1))
    assert [each for each, _ in await vectors.nearest("a", vector(0, 1), 10)] == [odd]
    assert (await vectors.nearest("a", vector(0, 1), 10))[0][1] == pytest.approx(0.0, abs=1e-5)
    assert len(await vectors.nearest("Älter & Co", vector(1, 0), 10)) == 1
    await vectors.forget("a", odd)
    assert len(await vectors.nearest("b", vector(0, 1), 10)) == 1


async def test_what_a_store_has_of_a_call_is_erased_with_its_vector(vectors: VectorStore) -> None:
    """In one go, also where no pipeline is configured any more; of stores elsewhere the vector has to be forgotten."""
    await vectors.put("a", "c", vector(1, 0))
    await vectors.put("b", "c", vector(1, 0))
    if isinstance(vectors, SqliteVectors | PgVectors):
        await PipelineTables(vectors._database, lambda: 0).forget_call("a", "c")
    else:
        await vectors.forget("a", "c")
    assert list(await vectors.nearest("a", vector(1, 0), 10)) == []
    assert len(await vectors.nearest("b", vector(1, 0), 10)) == 1


async def test_a_small_tenant_finds_its_ten_among_many(vectors: VectorStore) -> None:
    """Although thousands of others' are nearer to what is asked."""
    chance = random.Random(15)
    others = 60 if isinstance(vectors, QdrantVectors | PineconeVectors) else 1500
    for number in range(others):
        await vectors.put("big", f"b{number}", vector(1, chance.random() / 10, chance.random() / 10))
    for number in range(10):
        await vectors.put("small", f"s{number}", vector(0.1, 1, chance.random()))
    found = await vectors.nearest("small", vector(1, 0.01), 10)
    assert sorted(call_id for call_id, _ in found) == sorted(f"s{number}" for number in range(10))


async def test_another_number_of_dimensions_is_refused_elsewhere(vector_server: VectorServer) -> None:
    """A collection or an index that somebody made for another model says so before anything is written."""
    vector_server.size = 384
    url = str(vector_server.server.make_url(""))
    for store in (QdrantVectors(url, None, "calls", 5.0), PineconeVectors(url, None, 5.0)):
        with pytest.raises(ModelRefused, match="384 dimensions, the model 8"):
            await store.prepare(8)
        await store.close()
    assert vector_server.tokens == {None}


async def test_a_store_elsewhere_that_does_not_answer_is_unavailable() -> None:
    """Not refused: it may come back."""
    for store in (
        QdrantVectors("http://127.0.0.1:9", None, "calls", 5.0),
        PineconeVectors("http://127.0.0.1:9", None, 5.0),
    ):
        with pytest.raises(ModelUnavailable):
            await store.nearest("", vector(1), 1)
        await store.close()


async def test_pgvector_scans_its_index_on_for_a_small_tenant(
    postgres_servers: Callable[[str], PostgresServer],
) -> None:
    """Where the planner takes the index: without the iterative scan it finds none of the tenant's calls."""
    engine = PostgresEngine(postgres_servers("18"), f"test_{uuid4().hex}")
    engine.change("create extension if not exists vector schema public")
    engine.url += ",public%20-cenable_seqscan%3Doff%20-cenable_bitmapscan%3Doff%20-cenable_sort%3Doff"
    store = engine.store()
    vectors = PgVectors(store, "model")
    await vectors.prepare(DIMENSIONS)
    engine.change(
        "insert into call_vectors_8 select 'big', 'model', 'b' || n, "
        "('[1,' || n % 97 / 1000.0 || ',' || n % 89 / 1000.0 || ',0,0,0,0,0]')::vector from generate_series(1, 3000) n"
    )
    for number in range(10):
        await vectors.put("small", f"s{number}", vector(0.1, 1, number))
    asked = (
        "select call_id from call_vectors_8 where project = 'small' order by vector <=> '[1,0,0,0,0,0,0,0]' limit 10"
    )
    assert any("hnsw" in str(row) or "_nearest" in str(row) for row in engine.rows(f"explain {asked}"))
    assert len(engine.rows(asked)) < 10
    assert len(await vectors.nearest("small", vector(1), 10)) == 10
    await store.close()


async def test_a_postgres_without_pgvector_says_what_is_missing(
    postgres_servers: Callable[[str], PostgresServer],
) -> None:
    """Debian's has none."""
    engine = PostgresEngine(postgres_servers("15"), f"test_{uuid4().hex}")
    store = engine.store()
    with pytest.raises(ModelError, match="CREATE EXTENSION vector"):
        await PgVectors(store, "model").prepare(8)
    await store.close()


def test_ids_of_points_are_told_apart() -> None:
    """Where tenant and call id would run into each other."""
    assert point_id("a", "bc") != point_id("ab", "c")
    assert point_id("a", "bc") == point_id("a", "bc")

"""Vector stores: in the SQLite store, in PostgreSQL with pgvector, and at Qdrant and Pinecone over HTTP.

Tenants never see each other's vectors, and each finds its own ten nearest however many the others have: that is why
pgvector scans its index iteratively, and why every other one filters before it ranks.
"""

import hashlib
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from uploaders.pipeline.local import LocalModels
from uploaders.pipeline.models import HttpFailed, JsonClient, ModelRefused
from uploaders.stores.pipeline import Database
from uploaders.stores.store import StoreError

_POINTS: Final = uuid.UUID("5f0b7d1e-7c55-4a8e-9a37-3f5f2e0c8d41")
"""The namespace of the ids that points have elsewhere."""
HNSW_DIMENSIONS: Final = 2000
"""pgvector indexes no longer vectors; those are compared one by one."""


def point_id(project: str, call_id: str) -> str:
    """What the vector of a call is called elsewhere: always the same, so that writing it again replaces it."""
    return str(uuid.uuid5(_POINTS, f"{len(project)}:{project}{call_id}"))


def floats_of(vector: bytes) -> list[float]:
    """The numbers of a vector."""
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


class SqliteVectors:
    """In the store's own file; compared by the process of local models, which reads it and ends when idle."""

    def __init__(self, database: Database, path: Path, local: LocalModels, model: str) -> None:
        self._database = database
        self._path = path
        self._local = local
        self._model = model

    async def prepare(self, dimensions: int) -> None:
        """See `VectorStore`: vectors of another model, or of another length, are not compared."""

    async def put(self, project: str, call_id: str, vector: bytes) -> None:
        """See `VectorStore`. A call has one vector, whichever model made it."""
        key = {"project": project, "call_id": call_id, "model": self._model}
        await self._database.run([
            ("DELETE FROM call_vectors WHERE project = :project AND call_id = :call_id AND model <> :model", key),
            ("INSERT OR REPLACE INTO call_vectors (project, model, call_id, vector) "
             "VALUES (:project, :model, :call_id, :vector)", {**key, "vector": vector}),
        ])  # fmt: skip

    async def nearest(self, project: str, vector: bytes, limit: int) -> Sequence[tuple[str, float]]:
        """See `VectorStore`."""
        return await self._local.nearest(self._path, project, self._model, vector, limit)

    async def forget(self, project: str, call_id: str) -> None:
        """See `VectorStore`."""
        statement = "DELETE FROM call_vectors WHERE project = :project AND call_id = :call_id"
        await self._database.run([(statement, {"project": project, "call_id": call_id})])

    async def close(self) -> None:
        """Nothing."""


class PgVectors:
    """In the store's own database, with pgvector: a table for each number of dimensions."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model
        self._table = ""

    async def prepare(self, dimensions: int) -> None:
        """See `VectorStore`."""
        self._table = f"call_vectors_{dimensions}"
        ((installed,),) = (await self._database.run([("SELECT to_regtype('vector') IS NOT NULL", {})]))[0]
        if not installed:
            try:
                await self._database.run([("CREATE EXTENSION IF NOT EXISTS vector", {})])
            except StoreError as error:
                raise ModelRefused(
                    f"this PostgreSQL has no pgvector: install it, and run CREATE EXTENSION vector ({error})"
                ) from error
        index = (
            f"CREATE INDEX IF NOT EXISTS {self._table}_nearest ON {self._table} USING hnsw (vector vector_cosine_ops)"
        )
        await self._database.run([
            ("SELECT pg_advisory_xact_lock(7717771803)", {}),
            (f"CREATE TABLE IF NOT EXISTS {self._table} (project text NOT NULL, model text NOT NULL, "
             f"call_id text NOT NULL, vector vector({dimensions}) NOT NULL, "
             "PRIMARY KEY (project, model, call_id))", {}),
            *([(index, {})] if dimensions <= HNSW_DIMENSIONS else []),
        ])  # fmt: skip

    async def put(self, project: str, call_id: str, vector: bytes) -> None:
        """See `VectorStore`."""
        key = {"project": project, "call_id": call_id, "model": self._model, "vector": _literal(vector)}
        await self._database.run([
            (f"INSERT INTO {self._table} (project, model, call_id, vector) "
             "VALUES (:project, :model, :call_id, CAST(:vector AS vector)) "
             "ON CONFLICT (project, model, call_id) DO UPDATE SET vector = excluded.vector", key),
        ])  # fmt: skip

    async def nearest(self, project: str, vector: bytes, limit: int) -> Sequence[tuple[str, float]]:
        """See `VectorStore`. Without the iterative scan a small tenant finds nothing: its calls are not among the
        nearest 40 of all."""
        asked = {"project": project, "model": self._model, "vector": _literal(vector), "limit": limit}
        *_, rows = await self._database.run([
            ("SET LOCAL hnsw.iterative_scan = strict_order", {}),
            ("SET LOCAL hnsw.max_scan_tuples = 2000000000", {}),
            (f"SELECT call_id, 1 - (vector <=> CAST(:vector AS vector)) FROM {self._table} "
             "WHERE project = :project AND model = :model "
             "ORDER BY vector <=> CAST(:vector AS vector) LIMIT :limit", asked),
        ])  # fmt: skip
        return [(call_id, float(score)) for call_id, score in rows]

    async def forget(self, project: str, call_id: str) -> None:
        """See `VectorStore`. In the tables of other dimensions, too."""
        (found,) = await self._database.run([(self._database.dialect.vector_tables, {})])
        key = {"project": project, "call_id": call_id}
        if found:
            await self._database.run(
                [(f"DELETE FROM {name} WHERE project = :project AND call_id = :call_id", key) for (name,) in found]
            )

    async def close(self) -> None:
        """Nothing: the store's connections are its own."""


def _literal(vector: bytes) -> str:
    """As pgvector reads it."""
    return f"[{','.join(map(repr, floats_of(vector)))}]"


class QdrantVectors:
    """A collection of Qdrant; tenants are told apart by an indexed field, as its manual advises for many tenants."""

    def __init__(self, url: str, token: str | None, collection: str, timeout: float) -> None:
        self._client = JsonClient(url, {"api-key": token} if token else {}, timeout)
        self._path = f"/collections/{collection}"
        self._collection = collection

    async def prepare(self, dimensions: int) -> None:
        """See `VectorStore`."""
        try:
            found = await self._client.request("GET", self._path)
        except HttpFailed as error:
            if error.status != 404:
                raise
            await self._client.request("PUT", self._path, {"vectors": {"size": dimensions, "distance": "Cosine"}})
            index = {"field_name": "project", "field_schema": {"type": "keyword", "is_tenant": True}}
            await self._client.request("PUT", f"{self._path}/index?wait=true", index)
            return
        size = _at(found, "result", "config", "params", "vectors", "size")
        if size != dimensions:
            raise ModelRefused(f"the collection {self._collection} has {size} dimensions, the model {dimensions}")

    async def put(self, project: str, call_id: str, vector: bytes) -> None:
        """See `VectorStore`."""
        payload = {"project": project, "call_id": call_id}
        point = {"id": point_id(project, call_id), "vector": floats_of(vector), "payload": payload}
        await self._client.request("PUT", f"{self._path}/points?wait=true", {"points": [point]})

    async def nearest(self, project: str, vector: bytes, limit: int) -> Sequence[tuple[str, float]]:
        """See `VectorStore`."""
        of_project = {"must": [{"key": "project", "match": {"value": project}}]}
        asked = {"query": floats_of(vector), "filter": of_project, "limit": limit, "with_payload": True}
        answer = await self._client.request("POST", f"{self._path}/points/query", asked)
        points = _at(answer, "result", "points")
        return [
            (_at(point, "payload", "call_id"), float(_at(point, "score") or 0.0))
            for point in (points if isinstance(points, list) else [])
            if _at(point, "payload", "project") == project
        ]

    async def forget(self, project: str, call_id: str) -> None:
        """See `VectorStore`."""
        points = {"points": [point_id(project, call_id)]}
        try:
            await self._client.request("POST", f"{self._path}/points/delete?wait=true", points)
        except HttpFailed as error:
            if error.status != 404:  # no collection, no vectors
                raise

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class PineconeVectors:
    """An index of Pinecone, made with the cosine metric; each tenant has a namespace."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        headers = {"X-Pinecone-Api-Version": "2025-04"}
        self._client = JsonClient(url, {**headers, "Api-Key": token} if token else headers, timeout)

    async def prepare(self, dimensions: int) -> None:
        """See `VectorStore`."""
        found = await self._client.request("POST", "/describe_index_stats", {})
        size = _at(found, "dimension")
        if size != dimensions:
            raise ModelRefused(f"the index has {size} dimensions, the model {dimensions}")

    async def put(self, project: str, call_id: str, vector: bytes) -> None:
        """See `VectorStore`."""
        record = {"id": point_id(project, call_id), "values": floats_of(vector), "metadata": {"call_id": call_id}}
        await self._client.request("POST", "/vectors/upsert", {"vectors": [record], "namespace": _namespace(project)})

    async def nearest(self, project: str, vector: bytes, limit: int) -> Sequence[tuple[str, float]]:
        """See `VectorStore`."""
        asked = {
            "vector": floats_of(vector), "topK": limit, "includeMetadata": True, "namespace": _namespace(project),
        }  # fmt: skip
        answer = await self._client.request("POST", "/query", asked)
        matches = _at(answer, "matches")
        return [
            (str(_at(match, "metadata", "call_id")), float(_at(match, "score") or 0.0))
            for match in (matches if isinstance(matches, list) else [])
        ]

    async def forget(self, project: str, call_id: str) -> None:
        """See `VectorStore`."""
        asked = {"ids": [point_id(project, call_id)], "namespace": _namespace(project)}
        try:
            await self._client.request("POST", "/vectors/delete", asked)
        except HttpFailed as error:
            if error.status != 404:  # a namespace without vectors is not there
                raise

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _namespace(project: str) -> str:
    """Its name is limited to letters, digits and some marks; the default one is left alone."""
    if not project:
        return "callspool"
    if all(each.isascii() and (each.isalnum() or each in "_-") for each in project):
        return f"callspool-{project}"
    return f"callspool~{hashlib.sha256(project.encode()).hexdigest()[:32]}"


def _at(value: object, *path: str) -> Any:  # Any: whatever a server answers
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value

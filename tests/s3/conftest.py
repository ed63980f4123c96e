"""Fixtures: S3 servers for the whole session, a bucket of one's own, a real spool with something to deliver."""

import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader

from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server, answering, free_ports, program, seaweedfs
from tests.kafka.clusters import broker  # noqa: F401  # a fixture
from tests.s3.stored_objects import Heard, Store, client_of, now, opened_store
from tests.stores.clickhouse_server import clickhouse_server  # noqa: F401  # a fixture
from tests.stores.postgres_server import postgres_servers  # noqa: F401  # a fixture
from uploaders.s3.options import S3Options
from uploaders.s3.uploader import S3Uploader

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def descriptions_read_once() -> Iterator[None]:
    """botocore parses its descriptions of S3 for each session, and each uploader has its own: 0.1 s of CPU a test."""
    read = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: read(path))
        yield


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual AWS chain finds these in the environment, and nothing of the machine's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")


@pytest.fixture
async def bucket(weed: Server, credentials: None) -> str:
    """The name of an empty bucket of SeaweedFS."""
    return await _new_bucket(weed)


@pytest.fixture
async def cloned_bucket(clone: Server, credentials: None) -> str:
    """The name of an empty bucket of rclone."""
    return await _new_bucket(clone)


@pytest.fixture
def a_bucket(credentials: None) -> Callable[[Server], Awaitable[str]]:
    """Makes a bucket of a server and returns its name."""
    return _new_bucket


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def made(store: Store, heard: Heard, credentials: None) -> AsyncIterator[Callable[[S3Options], S3Uploader]]:
    """Makes uploaders over the store, and closes them."""
    uploaders = []

    def make(chosen: S3Options) -> S3Uploader:
        uploaders.append(S3Uploader(chosen, store.spool, store.spool.uploader_state, now, heard))
        return uploaders[-1]

    yield make
    for one in uploaders:
        await one.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "spool") as store:
        yield store


async def _new_bucket(server: Server) -> str:
    name = f"bucket-{next(_numbers)}"
    async with client_of(server) as client:
        await client.create_bucket(Bucket=name)
    return name


@contextmanager
def rclone(directory: Path) -> Iterator[Server]:
    """`rclone serve s3`: buckets are directories below `directory`; it ignores If-None-Match."""
    (port,) = free_ports(1)
    command = [
        program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}",
        "--config", str(directory / "rclone.conf"), str(directory),
    ]  # fmt: skip
    (directory / "rclone.conf").touch()
    with answering("rclone", command, port, directory / "rclone.log") as server:
        yield server

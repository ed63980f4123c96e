"""S3 servers that all tests of a process share, and buckets of a test's own."""

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from botocore.loaders import JSONFileLoader

from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server, answering, free_ports, program, seaweedfs

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of one, for clients that speak no TLS: botocore's has hundreds, and takes 20 ms of each client's start."""
    path = tmp_path_factory.mktemp("authority") / "one.pem"
    trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, descriptions_read_once: None, one_authority: str) -> None:
    """The usual AWS chain finds these in the environment, and nothing of the machine's."""
    monkeypatch.setenv("AWS_CA_BUNDLE", one_authority)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")


@pytest.fixture
def bucket(weed: Server, credentials: None) -> str:
    """The name of an empty bucket of SeaweedFS."""
    return _new_bucket(weed)


@pytest.fixture
def cloned_bucket(clone: Server, credentials: None) -> str:
    """The name of an empty bucket of rclone."""
    return _new_bucket(clone)


@pytest.fixture
def a_bucket(credentials: None) -> Callable[[Server], str]:
    """Makes a bucket of a server and returns its name."""
    return _new_bucket


def _new_bucket(server: Server) -> str:
    name = f"bucket-{next(_numbers)}"
    _administrator(server.endpoint).create_bucket(Bucket=name)
    return name


@functools.cache
def _administrator(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


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

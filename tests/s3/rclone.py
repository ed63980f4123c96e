"""rclone as an S3 server: a second dialect beside SeaweedFS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.s3_server import ACCESS_KEY, SECRET_KEY, Server, answering, free_ports, program


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

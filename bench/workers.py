"""Kafka to PostgreSQL: how many parts a second one and two workers write, and the memory that they need.

A backlog is written first; what is measured begins with the first part that is stored and ends with the last one, so
that neither the start of a process nor the forming of a group counts.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import psutil
from rich.console import Console
from rich.table import Table

from bench.calllogs import make_call_log
from bench.postgres_server import PostgresServer

PARTITIONS = 8
DOCUMENTS = 100
"""Different ones, so that they compress as call logs do."""
PLACE = "@" * 8
"""Stands for the call id in them."""
DEADLINE_SECONDS = 120.0


def measure_workers(server: PostgresServer, calls: int, rounds: int, console: Console) -> None:
    """One and two workers in turn; nothing where the broker is not installed."""
    try:
        from bench.kafka_servers import KafkaServer  # noqa: PLC0415  # an extra

        broker = KafkaServer()
    except (ImportError, LookupError) as error:
        console.print(f"Kafka to PostgreSQL is not measured: {error}")
        return
    broker.start()
    try:
        runs: dict[int, list[tuple[float, int]]] = {1: [], 2: []}
        for _ in range(rounds):
            for count, found in runs.items():
                found.append(_run(server, broker.brokers, calls, count))
    finally:
        broker.stop()
    table = Table("Kafka to PostgreSQL, parts of 2 KB", "parts/s", "memory of a worker at most")
    for count, found in runs.items():
        memory = max(size for _, size in found)
        rate = median(rate for rate, _ in found)
        table.add_row(f"{count} worker{'s' if count > 1 else ''}", f"{rate:,.0f}", f"{memory / 1e6:.0f} MB")
    console.print(table)


def _run(server: PostgresServer, brokers: str, calls: int, count: int) -> tuple[float, int]:
    """Parts a second, and the most memory that a worker had."""
    name = uuid.uuid4().hex[:8]
    topics = {key: f"{key}-{name}" for key in ("started", "ended", "details", "dead")}
    _produce(brokers, topics, calls)
    _execute(server, f"create schema bench_{name}")
    url = f"{server.url()}?options=-csearch_path%3Dbench_{name}"
    with tempfile.TemporaryDirectory(prefix="callspool-workers-") as folder:
        ports = [_free_port() for _ in range(count)]
        workers = [_worker(Path(folder), number, port, brokers, topics, url, name) for number, port in enumerate(ports)]
        try:
            figures = _drained(2 * calls, workers, ports)
            _check(server, f"bench_{name}.call_parts", 2 * calls)
            return figures
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(DEADLINE_SECONDS)


def _drained(parts: int, workers: list[subprocess.Popen[bytes]], ports: list[int]) -> tuple[float, int]:
    memory, first, began = 0, 0, 0.0
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        rows, now = sum(map(_stored, ports)), time.perf_counter()
        memory = max([memory, *(psutil.Process(worker.pid).memory_info().rss for worker in workers)])
        if rows and not first:
            first, began = rows, now
        if rows >= parts:
            return (rows - first) / max(now - began, 1e-9), memory
        if time.monotonic() > deadline or any(worker.poll() is not None for worker in workers):
            raise RuntimeError(f"{rows} of {parts} parts were written")
        time.sleep(0.05)


def _stored(port: int) -> int:
    """How many parts this worker has stored, as its metrics say: counting rows would take as much as writing them."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
    except OSError:
        return 0
    counts = [line for line in lines if line.startswith("callspool_store_rows_total{") and 'result="new"' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts)


def _check(server: PostgresServer, table: str, parts: int) -> None:
    import psycopg  # noqa: PLC0415  # an extra

    with psycopg.connect(server.url(), autocommit=True) as connection:
        row = connection.execute(f"select count(*) from {table}").fetchone()
    if row != (parts,):
        raise RuntimeError(f"{row} of {parts} parts are in the database")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _execute(server: PostgresServer, statement: str) -> None:
    import psycopg  # noqa: PLC0415  # an extra

    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement)


def _produce(brokers: str, topics: dict[str, str], calls: int) -> None:
    """Start and end of so many calls, spread over the partitions."""
    from confluent_kafka import Producer  # noqa: PLC0415  # an extra

    from bench.kafka_servers import create_topics  # noqa: PLC0415  # an extra

    create_topics(brokers, list(topics.values()), PARTITIONS)
    producer = Producer({"bootstrap.servers": brokers, "compression.type": "zstd", "linger.ms": 20})
    documents = {
        topic: [make_call_log(2_000, seed=seed, call_id=PLACE, event=f"call_{topic}") for seed in range(DOCUMENTS)]
        for topic in ("started", "ended")
    }
    for number in range(calls):
        call_id = f"{number:08}"
        for topic, of_topic in documents.items():
            value = of_topic[number % DOCUMENTS].replace(PLACE.encode(), call_id.encode())
            producer.produce(topics[topic], value, call_id)
        producer.poll(0)
    producer.flush(DEADLINE_SECONDS)


def _worker(
    folder: Path, number: int, port: int, brokers: str, topics: dict[str, str], url: str, group: str
) -> subprocess.Popen[bytes]:
    names = ", ".join(f'{key} = "{name}"' for key, name in topics.items())
    file = folder / f"{number}.toml"
    file.write_text(f'[[destinations]]\nname = "kafka"\ntype = "kafka"\nbrokers = "{brokers}"\ntopics = {{{names}}}\n')
    environment = {
        **os.environ,
        "CALLSPOOL_CONFIG": str(file),
        "CALLSPOOL_DATABASE_URL": url,
        "CALLSPOOL_ADMIN_LISTEN": f"127.0.0.1:{port}",
        "CALLSPOOL_WORK_GROUP": group,
        "CALLSPOOL_WORK_INSTANCE": f"worker-{number}",
        "CALLSPOOL_WORK_SESSION_TIMEOUT": "6s",
        "CALLSPOOL_LOG_LEVEL": "warning",
    }
    program = Path(sys.executable).with_name("callspool")
    return subprocess.Popen([program, "work"], env=environment, stderr=subprocess.DEVNULL)

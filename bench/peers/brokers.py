"""The brokers behind the fronts: each on a free port, its data in a folder of the run, as durable as it can be."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import free_port, listens, server

_PLACES = ("/usr/sbin", "/usr/local/sbin")
"""Where Debian puts servers, which the path of an ordinary user leaves out."""
_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The server itself; the command of that name wants to become another user."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that takes connections."""

    port: int
    roots: tuple[int, ...]


def found(program: str) -> str | None:
    """Where a program lies; None where it is not installed."""
    if program == "rabbitmq-server":
        return str(_RABBITMQ) if _RABBITMQ.exists() else None
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Broker]:
    """Redis with an append-only file that is synced before each answer."""
    port = free_port()
    command = [
        str(found("redis-server")), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
        "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
    ]  # fmt: skip
    with server(command, ready=lambda: listens(port), log=folder / "redis.log") as process:
        yield Broker(port, (process.pid,))


@contextlib.contextmanager
def nats(folder: Path) -> Iterator[Broker]:
    """NATS with JetStream in this folder, and messages as large as it allows."""
    port = free_port()
    configuration = folder / "nats.conf"
    configuration.write_text(
        f'listen: "127.0.0.1:{port}"\nmax_payload: 64MB\nmax_pending: 256MB\njetstream {{ store_dir: "{folder}" }}\n'
    )
    command = [str(found("nats-server")), "-c", str(configuration)]
    with server(command, ready=lambda: listens(port), log=folder / "nats.log") as process:
        yield Broker(port, (process.pid,))


@contextlib.contextmanager
def rabbitmq(folder: Path) -> Iterator[Broker]:
    """One RabbitMQ node with its own port mapper, so that nothing of it outlives the run."""
    port, mapper, distribution = free_port(), free_port(), free_port()
    host = socket.gethostname().split(".")[0]
    environment = {
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(mapper),
        "RABBITMQ_NODENAME": f"bench{port}@{host}",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }
    (folder / "plugins").write_text("[].\n")
    command = [str(found("epmd")), "-port", str(mapper)]
    with server(command, ready=lambda: listens(mapper), log=folder / "epmd.log") as names:
        log = folder / "rabbitmq.log"
        with server([str(_RABBITMQ)], ready=lambda: listens(port), log=log, environment=environment) as process:
            yield Broker(port, (process.pid, names.pid))

"""Who is measured: how each is started, what it needs, and what its answer to a post means."""

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.peers import brokers
from bench.processes import answers, free_port, server

NODE = Path(__file__).parent / "node"
_TWO_PHASE_BYTES = 5 << 20


@dataclass(frozen=True, slots=True)
class Started:
    """A contender that is ready for posts."""

    port: int
    roots: tuple[int, ...]
    """The processes that are it; their children count too."""


Start = Callable[[Path, int, bool], AbstractContextManager[Started]]
"""Starts it in a folder, towards a sink's port; without its worker where the last argument is false."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that are compared."""

    name: str
    start: Start
    needs: Callable[[], str]
    """What is missing on this machine, and how to install it; empty where nothing is."""
    delivers: bool = True
    splits: bool = False
    """Whether a large call log arrives in two parts."""

    def parts(self, body_bytes: int) -> int:
        """In how many requests a call log of this size arrives."""
        return 2 if self.splits and body_bytes > _TWO_PHASE_BYTES else 1


def _nothing() -> str:
    """It needs nothing besides this project."""
    return ""


def _program(*names: str, how: str) -> Callable[[], str]:
    """What is missing of these programs, of Node, and of its client."""

    def missing() -> str:
        """Asked when the run begins."""
        absent = [name for name in names if brokers.found(name) is None]
        if absent:
            return f"{', '.join(absent)} is not installed ({how})"
        if not (NODE / "node_modules").is_dir():
            return "its Node client is not installed (make peers)"
        return "" if shutil.which("node") else "node is not installed (Debian: apt install nodejs npm)"

    return missing


def _sdk_missing() -> str:
    """The SDK is installed with the tests."""
    return "" if importlib.util.find_spec("whispey") else "the SDK is not installed (make setup)"


@contextlib.contextmanager
def _bare(folder: Path, _sink: int, _deliver: bool) -> Iterator[Started]:
    """The ceiling: reads and forgets."""
    port = free_port()
    with _front([sys.executable, "-m", "bench.ceiling", "--port", str(port)], port, folder) as pid:
        yield Started(port, (pid,))


def _callspool(encoding: str) -> Start:
    """With its defaults, but for the encoding and requests of any size. Without a worker nobody listens at the sink."""

    @contextlib.contextmanager
    def start(folder: Path, sink: int, _deliver: bool) -> Iterator[Started]:
        """See `Start`."""
        port, admin = free_port(), free_port()
        configuration = folder / "callspool.toml"
        configuration.write_text(
            f'[[destinations]]\nname = "sink"\ntype = "http"\nurl = "http://127.0.0.1:{sink}/dev/send-call-log"\n'
            f'token = "bench"\nencoding = "{encoding}"\nmax_request_bytes = "64MB"\n'
        )
        environment = {
            "CALLSPOOL_SPOOL_DIR": str(folder / "spool"),
            "CALLSPOOL_INTAKE_LISTEN": f"127.0.0.1:{port}",
            "CALLSPOOL_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "CALLSPOOL_SHUTDOWN_QUIET": "0",
            "CALLSPOOL_SHUTDOWN_DEADLINE": "3s",
        }
        command = [str(Path(sys.executable).with_name("callspool")), "run", "--config", str(configuration)]
        log = folder / "callspool.log"
        with server(command, ready=lambda: answers(admin, "/readyz"), log=log, environment=environment) as process:
            yield Started(port, (process.pid,))

    return start


@contextlib.contextmanager
def _sdk(folder: Path, sink: int, deliver: bool) -> Iterator[Started]:
    """The SDK's outbox behind a front."""
    port = free_port()
    module, environment = "bench.peers.sdk_outbox", {"WHISPEY_OUTBOX_PATH": str(folder / "outbox.db")}
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", module, "front", str(port)]
        roots = [stack.enter_context(_front(command, port, folder, environment))]
        if deliver:
            command = [sys.executable, "-m", module, "worker", str(sink)]
            roots.append(stack.enter_context(_worker(command, folder, environment)))
        yield Started(port, tuple(roots))


def _node(queue: str, broker: Callable[[Path], AbstractContextManager[brokers.Broker]]) -> Start:
    """A broker behind a front of Node."""

    @contextlib.contextmanager
    def start(folder: Path, sink: int, deliver: bool) -> Iterator[Started]:
        """See `Start`."""
        port = free_port()
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(broker(folder))
            command = ["node", str(NODE / "front.js"), queue, str(running.port), str(port)]
            roots = [*running.roots, stack.enter_context(_front(command, port, folder))]
            if deliver:
                command = ["node", str(NODE / "worker.js"), queue, str(running.port), str(sink)]
                roots.append(stack.enter_context(_worker(command, folder)))
            yield Started(port, tuple(roots))

    return start


@contextlib.contextmanager
def _front(command: list[str], port: int, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A front that answers; its process."""
    log = folder / "front.log"
    with server(command, ready=lambda: answers(port, "/readyz"), log=log, environment=environment) as process:
        yield process.pid


@contextlib.contextmanager
def _worker(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A worker; its process."""
    with server(command, ready=lambda: True, log=folder / "worker.log", environment=environment) as process:
        yield process.pid


CONTENDERS = (
    Contender("bare handler", _bare, _nothing, delivers=False),
    Contender("callspool", _callspool("identity"), _nothing, splits=True),
    Contender("callspool, zstd", _callspool("zstd"), _nothing, splits=True),
    Contender("SDK's outbox", _sdk, _sdk_missing),
    Contender(
        "BullMQ + Redis",
        _node("bullmq", brokers.redis),
        _program("redis-server", how="Debian: apt install redis-server"),
    ),
    Contender(
        "RabbitMQ",
        _node("rabbitmq", brokers.rabbitmq),
        _program("rabbitmq-server", "epmd", how="Debian: apt install rabbitmq-server"),
    ),
    Contender(
        "NATS JetStream",
        _node("jetstream", brokers.nats),
        _program("nats-server", how="Debian: apt install nats-server"),
    ),
)
"""In the order of the tables. Within a round they take turns."""

"""What all tests share: event loops, figures told at the end of a run, logging put back, a folder on a disk."""

import asyncio
import gc
import itertools
import logging
import os
import signal
import sqlite3
import tempfile
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
import uvloop
from slipcover import pytest_plugin as probes
from slipcover.config import read_config

from gateway.process import signal_handling
from spool import space
from spool.db import startup
from spool.db.connection import connect_writer, migrate

# How long an example takes is the machine's matter. `make test` tries the same examples each time, so that a change is
# judged by what it changes; `make prove` tries others.
hypothesis.settings.register_profile(
    "callspool",
    deadline=None,
    derandomize="PROVE_BUDGET" not in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("callspool")
# Before logging is set up: structlog's own tracebacks show the variables of each frame, at 0.1 s for one.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

# slipcover 1.1 does not pass on its settings to the processes of pytest-xdist.
if probes._slipcover_instance is not None:
    probes._slipcover_instance.d_miss_threshold = read_config()["threshold"]

pytest_plugins = (
    "tests.kafka.clusters",
    "tests.s3.servers",
    "tests.stores.clickhouse_server",
    "tests.stores.postgres_server",
)
"""Servers that tests of many folders share: each is started when it is first asked for, once in a test process."""

HERE = Path(__file__).parent
HOMES = {"page": 0, "s3": 1, "kafka": 2, "stores": 2, "worker": 2}
"""Folders whose tests share a server, a browser or a gateway, and the number of the process that starts it."""
TOLD = "told"
ON_BOTH_LOOPS = {
    "intake/test_connections.py",
    "intake/test_filling.py",
    "intake/test_slow_clients.py",
    "intake/test_tls.py",
    "uploaders/test_connections.py",
    "uploaders/test_http_network.py",
    "uploaders/test_misbehaving_endpoints.py",
}
"""Of what depends on how an event loop reads, writes and closes sockets: the gateway runs on uvloop."""
ON_UVLOOP = {"gateway/test_tls.py"}
"""Of what only uvloop does: asyncio drops a connection whose server is closed in the turn that accepted it."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops to run a test on."""
    file = str(item.path.relative_to(HERE))
    if file in ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    if file in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name binary parameters by their argument: compressed bytes hold the time, and processes must agree on names."""
    printable = not isinstance(val, bytes) or (val.isascii() and val.decode().isprintable())
    return None if printable else argname


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deal the tests out: to each process its share of the slow ones, then those whose server it has at home.

    Slow tests mostly wait. So each process has its share at another time: the first at once, the last after two thirds
    of its other tests, and meanwhile the others have the processors. `--dist worksteal` gives each process an equal
    piece of the list, and the end of a piece to whoever is free: no process is left alone with a slow test.
    """
    if not hasattr(config, "workerinput"):
        return
    hands: list[list[pytest.Item]] = [[] for _ in range(config.workerinput["workercount"])]
    by_urgency: tuple[list[pytest.Item], ...] = ([], [], [])
    for item in items:
        at_home = item.path.parent.name in HOMES
        by_urgency[0 if item.get_closest_marker("slow") else 1 if at_home else 2].append(item)
    for item in itertools.chain(*by_urgency[:2]):
        home = HOMES.get(item.path.parent.name)
        hand = min(hands, key=len) if home is None else hands[home % len(hands)]
        hand.append(item)
    rest = iter(by_urgency[2])
    piece = len(items) / len(hands)
    items[:] = []
    for number, hand in enumerate(hands):
        quick = list(itertools.islice(rest, max(0, round(piece * (number + 1)) - len(items) - len(hand))))
        first = len(quick) * number // len(hands)
        items += quick[:first] + hand + quick[first:]


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option of our own."""
    about = "collect garbage after each test: what it left open fails it, and not whichever test comes later"
    parser.addoption("--garbage", action="store_true", help=about)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """With `--garbage`, let the test that left something to the collector be the one that fails."""
    yield
    if item.config.getoption("--garbage"):
        gc.collect()
        unraisable = item.config.pluginmanager.get_plugin("unraisableexception")
        assert unraisable is not None
        unraisable.pytest_runtest_teardown(item)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing of it is garbage: a collector that looks for some takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no garbage collection during the tests looks at it."""
    gc.freeze()


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what tests put into `record_property("told", ...)`: the output of tests that pass is not shown."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == TOLD:
                terminalreporter.write_line(f"{report.nodeid.rsplit('::')[-1]}: {value}")


LARGEST_HEADROOM_BYTES = space.LARGEST_HEADROOM_BYTES


@pytest.fixture(scope="session", autouse=True)
def little_headroom() -> Iterator[None]:
    """A disk sets blocks aside, a file system in memory clears them: half of the work of opening a spool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "LARGEST_HEADROOM_BYTES", space.SMALLEST_HEADROOM_BYTES)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_run_of_the_migrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The schema of a new spool is a copy of what the migrations made once: a third of the work of opening one.

    The tests of the spool run them as they are, and so does each program that a test starts.
    """
    path = tmp_path_factory.mktemp("schema") / "spool.db"
    path.touch()
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as schema:
        with closing(connect_writer(path)) as made:
            migrate(made)
            made.backup(schema)
        path.unlink()

        def copy_or_migrate(connection: sqlite3.Connection) -> None:
            ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
            if tables:
                migrate(connection)
            else:
                schema.backup(connection)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(startup, "migrate", copy_or_migrate)
            yield


@pytest.fixture(scope="session", autouse=True)
def no_forgotten_connections() -> Iterator[None]:
    """Who connects at the moment in which a server of a test is closed is turned away.

    asyncio forgets a connection that it has accepted by then and has no protocol for yet, and aiohttp closes none that
    it gets to know only while it shuts down. The client would wait for an answer in vain, and the collector close the
    socket during whatever test comes later, which then fails for it.
    """
    accept = BaseSelectorEventLoop._accept_connection2  # type: ignore[attr-defined]  # private

    async def accept_while_open(
        loop: Any, make_protocol: Any, connection: Any, extra: Any, tls: Any, server: Any, *timeouts: Any
    ) -> None:
        if not server.is_serving():
            connection.close()
            return
        descriptor = connection.fileno()
        await accept(loop, make_protocol, connection, extra, tls, server, *timeouts)
        # A handshake takes as long as it takes: who began one stays, as with a listener that gets a new certificate.
        if tls is None and not server.is_serving() and descriptor in loop._transports:
            loop._transports[descriptor].abort()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseSelectorEventLoop, "_accept_connection2", accept_while_open)
        yield


@pytest.fixture
def full_headroom(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much headroom as a spool has elsewhere, for tests of a full disk."""
    monkeypatch.setattr(space, "LARGEST_HEADROOM_BYTES", LARGEST_HEADROOM_BYTES)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Logging as it was, after a test that sets it up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiohttp.access").setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def restored_process(restored_logging: None) -> Iterator[None]:
    """Logging and signals as they were, after a test that runs a program to its end in this process."""
    handlers = {number: signal.getsignal(number) for number in signal_handling(at_a_terminal=False)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What only the cyclic collector would free stays, so that it is seen."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def disk_path(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk. `tmp_path` may lie in memory, and what a process writes there counts as its memory."""
    if not os.environ.get("PYTEST_DEBUG_TEMPROOT"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="callspool-test-") as folder:
        yield Path(folder)

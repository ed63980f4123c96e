"""PostgreSQL servers for the tests of one session; what needs one that is not installed is skipped."""

from collections.abc import Callable, Iterator

import pytest

from bench.postgres_server import PostgresServer


def started(version: str, *options: str) -> PostgresServer:
    """A running server of this version, to be stopped by the test."""
    pytest.importorskip("psycopg")
    try:
        server = PostgresServer(version, *options)
    except LookupError as error:
        pytest.skip(str(error))
    server.start()
    return server


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[str], PostgresServer]]:
    """Running servers by their version, each started when it is first asked for."""
    servers: dict[str, PostgresServer] = {}

    def server(version: str) -> PostgresServer:
        """The server of this version. Nothing here survives a crash, so nothing needs to be flushed for one."""
        if version not in servers:
            servers[version] = started(version, "fsync=off", "max_connections=50")
        return servers[version]

    yield server
    for each in servers.values():
        each.stop()

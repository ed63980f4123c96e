"""A server with ClickHouse's engine for the tests of one session."""

from collections.abc import Iterator

import pytest

from bench.clickhouse_server import ClickHouseServer


@pytest.fixture(scope="session")
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """ClickHouse's engine; what needs it is skipped where that is not installed."""
    pytest.importorskip("clickhouse_connect")
    try:
        server = ClickHouseServer()
    except LookupError as error:
        pytest.skip(str(error))
    yield server
    server.stop()

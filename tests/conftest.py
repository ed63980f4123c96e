"""What all tests share: figures that a test measured are told at the end of the run, and logging is put back."""

import logging
from collections.abc import Iterator

import pytest
import structlog

TOLD = "told"


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what tests put into `record_property("told", ...)`: the output of tests that pass is not shown."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == TOLD:
                terminalreporter.write_line(f"{report.nodeid.rsplit('::')[-1]}: {value}")


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

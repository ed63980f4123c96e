"""What all tests share: figures that a test measured are told at the end of the run."""

import pytest

TOLD = "told"


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write what tests put into `record_property("told", ...)`: the output of tests that pass is not shown."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == TOLD:
                terminalreporter.write_line(f"{report.nodeid.rsplit('::')[-1]}: {value}")

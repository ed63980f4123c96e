"""`callspool resume`, against the real admin application."""

from dataclasses import replace

import pytest

from gateway.cli import Exit
from tests.admin.admin_app import ENDPOINT_DOWN, NOW, STATS, AdminFigures
from tests.cli.conftest import Cli, Server
from uploaders.base import BreakerState, DestinationStatus

UP = replace(ENDPOINT_DOWN, up=True, reason="", retry_at=None, since=None, breaker=BreakerState.CLOSED)
EMPTY = replace(STATS, lanes={})


def after(destination: DestinationStatus, **world: object) -> AdminFigures:
    """A gateway whose endpoint is down, and is like this once it was ordered to be tried."""
    made = AdminFigures(destinations=(ENDPOINT_DOWN,), **world)  # type: ignore[arg-type]  # the test names fields

    def order(name: str) -> bool | None:
        made.destinations = (destination,)
        return True if name == "endpoint" else None

    made.on_resume = order
    return made


@pytest.mark.parametrize(
    ("then", "told", "code"),
    [
        (UP, "endpoint is up again; queued: 50", Exit.OK),
        (replace(ENDPOINT_DOWN, reason="HTTP 500"), "endpoint is still down: HTTP 500", Exit.FAILED),
        (replace(UP, refused_tokens=2), "endpoint still refuses tokens: 2", Exit.FAILED),
    ],
)
def test_what_came_of_the_try_is_told(cli: Cli, server: Server, then: DestinationStatus, told: str, code: Exit) -> None:
    """The command waits for the outcome, says it in a line, and its exit code is the outcome's."""
    result = cli("resume", "endpoint", "--wait", "0.1", "--admin", server.serve(after(then).app))
    assert told in result.stdout
    assert result.exit_code == code


def test_a_destination_that_waits_for_nothing_is_left_alone(cli: Cli, server: Server) -> None:
    """There is nothing to resume where deliveries flow."""
    result = cli("resume", "endpoint", "--admin", server.serve(AdminFigures(destinations=(UP,)).app))
    assert "endpoint is up: nothing to resume" in result.stdout
    assert result.exit_code == Exit.OK


def test_a_destination_that_is_taken_away_meanwhile_is_named(cli: Cli, server: Server) -> None:
    """A reload may remove it while the command waits."""
    result = cli("resume", "endpoint", "--admin", server.serve(after(replace(UP, name="other"), stats=EMPTY).app))
    assert "There is no destination endpoint any more." in result.stderr
    assert result.exit_code == Exit.FAILED


def test_with_nothing_queued_the_next_delivery_is_the_try(cli: Cli, server: Server) -> None:
    """Nothing can be sent to find out; that is no failure."""
    waiting = replace(ENDPOINT_DOWN, retry_at=NOW)
    world = after(waiting, stats=EMPTY)
    result = cli("resume", "endpoint", "--wait", "0", "--admin", server.serve(world.app))
    assert "the next delivery is an attempt" in result.stdout
    assert result.exit_code == Exit.OK


def test_a_mistyped_name_is_told_with_the_right_ones(cli: Cli, server: Server) -> None:
    """The hint is the name that was meant, or else all of the configuration."""
    admin = server.serve(AdminFigures(destinations=(UP,)).app)
    for name, hint in (("endpiont", "Did you mean endpoint?"), ("bucket", "The configuration has: endpoint.")):
        result = cli("resume", name, "--admin", admin)
        assert result.exit_code == Exit.FAILED
        assert hint in result.stderr

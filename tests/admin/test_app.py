"""Tests of health, status and traces, over a real socket."""

from dataclasses import replace
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from gateway.admin.view import Lifecycle, Phase
from gateway.operations.advice import ADVICE, ReasonKind
from gateway.runbooks import Runbook
from spool.errors import SpoolUnavailable
from spool.records import DeliveryState, Form
from spool.stats import SpoolStats
from tests.admin.admin_app import NOW, STATS, AdminFigures, delivery, traced, traced_delivery


async def test_health_depends_on_nothing(aiohttp_client: AiohttpClient) -> None:
    """The process is healthy whatever the spool and the destinations do: a restart would not help them."""
    world = AdminFigures(stats=None, lifecycle=Lifecycle(Phase.STOPPING))
    answer = await (await aiohttp_client(world.app)).get("/healthz")
    assert (answer.status, await answer.json()) == (200, {"status": "ok", "reasons": []})


@pytest.mark.parametrize(
    ("lifecycle", "stats", "reasons"),
    [
        (Lifecycle(Phase.RUNNING), STATS, []),
        (Lifecycle(Phase.STARTING, ("the spool is being checked",)), STATS, ["the spool is being checked"]),
        (Lifecycle(Phase.STOPPING), STATS, ["the gateway is stopping"]),
        (Lifecycle(Phase.RUNNING), None, ["the spool is not open"]),
        (
            Lifecycle(Phase.RUNNING),
            replace(STATS, failure="I/O error at https://user:pw@host"),
            ["the spool cannot take records: I/O error at https://***@host"],
        ),
        (
            Lifecycle(Phase.RUNNING),
            replace(STATS, used_bytes=STATS.limit_bytes),
            ["the spool is full: 10.0 GB of 10.0 GB"],
        ),
        (
            Lifecycle(Phase.STARTING),
            None,
            ["the gateway is starting", "the spool is not open"],
        ),
    ],
)
async def test_ready_means_that_posts_can_be_accepted(
    aiohttp_client: AiohttpClient, lifecycle: Lifecycle, stats: SpoolStats | None, reasons: list[str]
) -> None:
    """Readiness is the phase and the spool, with every reason told; destinations have no part in it."""
    world = AdminFigures(stats=stats, lifecycle=lifecycle)
    assert not world.destinations[0].up
    client = await aiohttp_client(world.app)
    answer = await client.get("/readyz")
    assert answer.status == (503 if reasons else 200)
    assert (await answer.json())["reasons"] == reasons
    status = await (await client.get("/api/status")).json()
    assert (status["ready"], status["reasons"]) == (not reasons, reasons)


@pytest.mark.parametrize(
    ("change", "runbook"),
    [
        ({"used_bytes": STATS.limit_bytes}, Runbook.SPOOL_FULL),
        ({"shortage": "the disk has no room"}, Runbook.DISK_FULL),
        ({"failure": "I/O error"}, Runbook.POSTS_REFUSED),
    ],
)
async def test_whatever_is_asked_names_the_runbook_of_the_symptom(
    aiohttp_client: AiohttpClient, change: dict[str, Any], runbook: Runbook
) -> None:
    """/readyz, the status and the verdict lead to one section."""
    client = await aiohttp_client(AdminFigures(stats=replace(STATS, **change)).app)
    ready, status = await (await client.get("/readyz")).json(), await (await client.get("/api/status")).json()
    assert ready["runbook"] == status["runbook"] == status["verdict"]["cause"]["runbook"] == runbook


async def test_a_way_in_that_is_closed_is_told(aiohttp_client: AiohttpClient) -> None:
    """Where nothing can be staged, giants would be refused: the gateway is not ready, and says why."""
    client = await aiohttp_client(AdminFigures(intake_obstacle="the staging directory is gone").app)
    answer = await client.get("/readyz")
    assert (answer.status, (await answer.json())["reasons"]) == (503, ["the staging directory is gone"])
    assert not (await (await client.get("/api/status")).json())["ready"]
    assert "callspool_ready 0.0" in (await (await client.get("/metrics")).text()).splitlines()


async def test_the_status_tells_of_every_destination_and_lane(aiohttp_client: AiohttpClient) -> None:
    """Backlog, age, attempts under way and dead letters stand by lane; forgotten destinations are not left out."""
    answer = await (await aiohttp_client(AdminFigures().app)).get("/api/status")
    status = await answer.json()
    assert answer.content_type == "application/json"
    assert [(each["name"], each["configured"]) for each in status["destinations"]] == [
        ("endpoint", True),
        ("local", True),
        ("gone", False),
    ]
    endpoint, local, gone = status["destinations"]
    assert (endpoint["up"], endpoint["reason"], endpoint["dead"]) == (False, "503 Service Unavailable", 2)
    assert endpoint["retry_at"] == "2026-01-01T00:00:30.000Z"
    assert endpoint["dead_reasons"] == [
        {"kind": "refused", "count": 2, "example": "HTTP 400: no x, token=***", "advice": ADVICE[ReasonKind.REFUSED]}
    ]
    assert local["dead_reasons"] == []
    core, detail = endpoint["lanes"]
    assert (core["lane"], core["queued"], core["in_flight"], core["oldest_seconds"]) == ("core", 10, 1, 90.0)
    assert (detail["lane"], detail["queued"], detail["dead"], detail["queued_bytes"]) == ("detail", 40, 2, 480_000_000)
    assert [lane["in_flight"] for lane in local["lanes"]] == [2, 1]
    assert local["lanes"][0]["oldest_seconds"] is None
    assert (gone["up"], gone["reason"], gone["lanes"][0]["queued"]) == (False, "not configured", 3)
    assert status["spool"] == {
        "used_bytes": 3_400_000_000,
        "limit_bytes": 10_000_000_000,
        "reserve_bytes": 500_000_000,
        "full_of_details": False,
        "unaccounted": 0,
        "failure": None,
    }


async def test_the_status_is_served_while_the_spool_is_not_open(aiohttp_client: AiohttpClient) -> None:
    """A gateway that is starting shows its destinations, and that the spool is not open."""
    world = AdminFigures(stats=None, lifecycle=Lifecycle(Phase.STARTING))
    status = await (await (await aiohttp_client(world.app)).get("/api/status")).json()
    assert (status["spool"], status["phase"], len(status["destinations"])) == (None, "starting", 2)


async def test_recent_events_are_told_newest_first_and_without_secrets(aiohttp_client: AiohttpClient) -> None:
    """Outages, recoveries and dead letters are shown; the daily business is not; only the newest are kept."""
    world = AdminFigures()
    for _ in range(60):
        world.events.destination_changed("local", False, "disk")
    world.events.destination_changed("endpoint", False, "https://h/x?token=hush refused")
    world.events.attempted(delivery(), "delivered", 1.0)
    world.events.attempted(delivery(), "retry", 1.0)
    world.now = NOW + 1500
    world.events.destination_changed("endpoint", True, "")
    world.events.attempted(delivery(Form.DETAIL), "dead", 1.0)
    events = (await (await (await aiohttp_client(world.app)).get("/api/status")).json())["events"]
    assert len(events) == 50
    assert [each["text"] for each in events[:3]] == [
        "endpoint: the detail of call call-1 became a dead letter",
        "endpoint accepts deliveries again",
        "endpoint accepts no deliveries: https://h/x?token=*** refused",
    ]
    assert [each["level"] for each in events[:3]] == ["error", "info", "warning"]
    assert events[0]["at"] == "2026-01-01T00:00:01.500Z"


@pytest.mark.parametrize("call_id", ["call-1", "a/b c", "ünï"])
async def test_a_call_can_be_looked_up_by_whatever_id_it_has(aiohttp_client: AiohttpClient, call_id: str) -> None:
    """The trace of a call is found by its id, with any character in it."""
    record = traced(traced_delivery(Form.WHOLE, DeliveryState.READY))
    client = await aiohttp_client(AdminFigures(calls={call_id: (record,)}).app)
    answer = await client.get(f"/api/calls/{call_id}")
    document = await answer.json()
    assert (answer.status, document["call_id"], len(document["records"])) == (200, call_id, 1)


async def test_an_unknown_call_is_404_with_a_hint(aiohttp_client: AiohttpClient) -> None:
    """A call that the spool does not know is told from a failure, and why that may be is said."""
    answer = await (await aiohttp_client(AdminFigures().app)).get("/api/calls/nobody")
    document = await answer.json()
    assert (answer.status, document["success"], document["error"]["code"]) == (404, False, "unknown_call")
    assert "Receipts" in document["error"]["hint"]


async def test_a_spool_that_cannot_be_read_is_503(aiohttp_client: AiohttpClient) -> None:
    """A failing spool is no reason to say that a call is unknown."""
    answer = await (await aiohttp_client(AdminFigures(trace_error=SpoolUnavailable("closing")).app)).get("/api/calls/x")
    assert answer.status == 503
    assert (await answer.json())["error"]["message"] == "closing"


async def test_no_answer_is_kept_by_caches(aiohttp_client: AiohttpClient) -> None:
    """Every answer is of the moment."""
    client = await aiohttp_client(AdminFigures().app)
    for path in ("/", "/metrics", "/healthz", "/readyz", "/api/status", "/api/calls/x"):
        assert (await client.get(path)).headers["Cache-Control"] == "no-store", path

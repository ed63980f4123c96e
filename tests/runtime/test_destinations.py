"""The registry of destinations: a kind that is configured can be planned for, delivered to, documented and tested."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from config.destinations import DESTINATION_TYPES, Destination, DestinationTable, DetailSent, type_name
from gateway.admin.metrics import Metrics
from gateway.live_calls import DrainThrottle, OpenCalls, ThrottlePolicy
from gateway.runtime.destinations import FORM_OF_DETAILS, KINDS, UploaderContext, accepts, make_uploader, route_of
from spool.records import Form
from tests.project.repository import text
from tests.s3.destinations_under_test import KINDS as TESTED
from tests.spool.spool_parts import Clock, opened
from uploaders.base import Uploader
from uploaders.http.uploader import HttpUploader
from uploaders.presigned import RoutingUploader
from uploaders.stores.completion import CompletionRule

ENOUGH: dict[str, dict[str, object]] = {
    "http": {"url": "https://host/dev/send-call-log"},
    "presigned": {"url": "https://host/dev/send-call-log"},
    "s3": {"bucket": "calls"},
    "file": {"path": "delivered"},
    "kafka": {"brokers": "127.0.0.1:9092"},
    "sqlite": {"path": "calls.db"},
    "postgres": {"url": "postgresql://host/calls"},
    "clickhouse": {"url": "clickhouse://host/calls"},
    "pipeline": {},
}
"""The least that each kind must be told."""

configured = TypeAdapter[Any](Destination).validate_python


def destination(kind: str, **settings: object) -> Any:
    return configured({"name": "a", "type": kind, **ENOUGH[kind], **settings})


async def uploader_of(directory: Path, configuration: Any) -> Uploader:
    rule = ThrottlePolicy(rate=None, when_idle=False, live_rate=None, live_concurrency=1, live_max_age=1)
    clock = Clock()
    async with opened(directory, clock=clock) as spool:
        context = UploaderContext(
            spool, directory, Metrics(), clock, DrainThrottle(rule, OpenCalls(), clock), CompletionRule(), None
        )
        uploader = make_uploader(configuration, context)
        await uploader.close()
        return uploader


def test_every_kind_that_can_be_configured_is_registered_tested_and_documented() -> None:
    """A kind has its settings, its entry, a place in the conformance suite of uploaders, and a part of the manual."""
    assert set(KINDS) == set(DESTINATION_TYPES)
    names = {type_name(model) for model in KINDS}
    # A pipeline keeps what it needs of a call, and no document: tests/pipeline/test_uploader.py.
    assert names == set(ENOUGH) == {*TESTED, "pipeline"}
    manual = text(Path("docs/configuration.md"))
    assert all(f"destinations[type={name}]" in manual for name in names)


@pytest.mark.parametrize("model", DESTINATION_TYPES, ids=type_name)
async def test_every_kind_has_a_factory_and_a_place_in_the_plan(model: type[DestinationTable], tmp_path: Path) -> None:
    """From its least settings each kind gets an uploader, a route, and forms that can be rerouted to it."""
    configuration = destination(type_name(model))
    assert callable((await uploader_of(tmp_path, configuration)).deliver)
    assert route_of(configuration).name == "a"
    accepted = accepts(configuration)
    assert {Form.WHOLE, Form.CORE, Form.DETAIL} <= accepted.forms


def test_everything_that_may_be_sent_of_details_has_its_form() -> None:
    """No choice of `detail` is without a meaning for the plan of deliveries."""
    assert set(FORM_OF_DETAILS) == set(DetailSent)


@pytest.mark.parametrize(
    ("settings", "made"),
    [
        ({}, HttpUploader),
        ({"large": "presigned"}, RoutingUploader),
        ({"when_too_large": ["presigned"]}, RoutingUploader),
        ({"when_too_large": ["top_n"]}, HttpUploader),
    ],
)
async def test_an_endpoint_has_a_way_to_upload_where_it_may_need_one(
    settings: dict[str, object], made: type, tmp_path: Path
) -> None:
    """Wholes go through upload addresses always, as a fallback, or never."""
    assert type(await uploader_of(tmp_path, destination("http", **settings))) is made


@pytest.mark.parametrize(
    ("settings", "reduced"), [({}, False), ({"detail": "critical"}, True), ({"when_too_large": ["top_n"]}, True)]
)
def test_reduced_details_can_be_rerouted_to_whoever_makes_them(settings: dict[str, object], reduced: bool) -> None:
    """An endpoint accepts a reduced detail only where its uploader can make one."""
    assert (Form.REDUCED in accepts(destination("http", **settings)).forms) is reduced

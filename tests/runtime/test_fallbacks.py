"""From the settings of an endpoint to what is done about details that are too large."""

import json
from pathlib import Path

import pytest

from config.destinations import S3Destination
from gateway.runtime.destinations import fallbacks, reduction, route_of
from spool.records import Form, Lane, NewDelivery
from tests.config.destinations import http_destination
from uploaders.dispatch.policy import FallbackStep, reduced, to_bucket, upload
from uploaders.document.encoding import NotReducible

BUCKET = S3Destination.model_validate({"name": "calls", "type": "s3", "bucket": "calls", "notify": "a"})
OTHERS_BUCKET = S3Destination.model_validate({"name": "others", "type": "s3", "bucket": "others", "notify": "b"})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ()),
        ({"when_too_large": ["presigned"]}, (upload("a"),)),
        ({"when_too_large": ["presigned"], "presigned": {"reference": True}}, (upload("a", referenced=True),)),
        ({"when_too_large": ["s3"]}, (to_bucket("a", "calls"),)),
        ({"when_too_large": ["presigned", "top_n"]}, (upload("a"), reduced("a"))),
    ],
)
def test_each_fallback_is_a_step(settings: dict[str, object], expected: tuple[FallbackStep, ...]) -> None:
    """The steps are those that the settings list, in their order, and the bucket is the one that notifies."""
    destination = http_destination(**settings)
    assert fallbacks(destination, [OTHERS_BUCKET, destination, BUCKET]) == expected
    assert fallbacks(BUCKET, [destination, BUCKET]) == ()


def test_a_referenced_upload_is_followed_by_its_notice() -> None:
    """As with `large = "presigned"`, the endpoint is told of the upload where that is configured."""
    assert upload("a", referenced=True).to[1] == NewDelivery("a", Form.NOTICE, Lane.CORE, after="a")


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"detail": "critical"}, [2000, 1500]),
        ({"when_too_large": ["critical"]}, [2000, 1500]),
        ({"detail": "top_n", "top_n": 1}, [2000]),
        ({"when_too_large": "presigned, top_n", "top_n": 3}, [2000, 1500, 7]),
        ({}, None),
        ({"detail": "none"}, None),
        ({"when_too_large": ["presigned", "s3"]}, None),
    ],
)
def test_reduction_is_as_configured(settings: dict[str, object], kept: list[int] | None, tmp_path: Path) -> None:
    """The policy and its N, for what is always reduced and for what is refused; none where nobody allowed it."""
    found = reduction(http_destination(**settings), tmp_path)
    assert (found is None) is (kept is None)
    if found is None:
        return
    spans = [{"duration_ms": duration} for duration in (2000, 5, 1500, 7)]
    document = b"".join(found.reduce(json.dumps({"telemetry_data": {"session_traces": spans}}).encode()))
    assert [span["duration_ms"] for span in json.loads(document)["telemetry_data"]["session_traces"]] == kept


def test_what_is_no_detail_is_told_as_that(tmp_path: Path) -> None:
    """A detail that cannot be read is the uploader's own error, which makes a dead letter."""
    found = reduction(http_destination(detail="critical"), tmp_path)
    assert found is not None
    with pytest.raises(NotReducible, match="cannot be reduced"):
        found.reduce(b"[1]")


@pytest.mark.parametrize(
    ("settings", "detail", "overflows"),
    [
        ({}, Form.DETAIL, False),
        ({"detail": "critical"}, Form.REDUCED, False),
        ({"detail": "top_n"}, Form.REDUCED, False),
        ({"detail": "none"}, None, False),
        ({"when_too_large": ["presigned", "s3"]}, Form.DETAIL, True),
    ],
)
def test_the_route_knows_what_is_sent(settings: dict[str, object], detail: Form | None, overflows: bool) -> None:
    """What is owed at acceptance follows from what the endpoint is to get; a bucket may wait for refusals."""
    route = route_of(http_destination(**settings))
    assert (route.detail, route.overflows) == (detail, overflows)

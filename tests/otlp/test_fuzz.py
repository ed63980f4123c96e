"""Whatever an exporter posts is answered properly, and nothing of it is held."""

import gc
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.intake.responses import Rejection
from gateway.otlp.source import JSON, PROTOBUF
from tests.otlp.captured import as_json, in_posts, request
from tests.otlp.tracing import RULE, Tracing, tracing

PROTOBUFS = [in_posts(request(name), 3)[0] for name in ("livekit-3-turns-with-tool", "pipecat-pipeline")]
JSONS = [as_json(request(name)) for name in ("livekit-3-turns-with-tool", "pipecat-pipeline")]

odd: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.lists(st.integers(), max_size=3)
    | st.sampled_from([1 << 63, -(1 << 63), 1 << 64, "9" * 40, "-1", "00", "f" * 31, {}, [], {"stringValue": 7}])
)  # fmt: skip


def places_in(value: object) -> list[tuple[Any, Any]]:
    """Every place in a document: who holds it, and under which key."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(value, key), *places_in(inner)]
    return found


@st.composite
def posts(draw: st.DrawFn) -> tuple[bytes, str]:
    """A post of a real agent with other values in it, or other bytes."""
    if draw(st.booleans()):
        document = json.loads(draw(st.sampled_from(JSONS)))
        places = places_in(document)
        for at in draw(st.lists(st.integers(0, len(places) - 1), min_size=1, max_size=4)):
            holder, key = places[at]
            holder[key] = draw(odd)
        body, kind = json.dumps(document).encode(), JSON
    else:
        body, kind = draw(st.sampled_from(PROTOBUFS)), PROTOBUF
    changed = bytearray(body)
    for _ in range(draw(st.integers(0 if kind == JSON else 1, 3))):
        start = draw(st.integers(0, len(changed)))
        changed[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(changed), kind


@pytest.fixture
async def traces(tmp_path: Path) -> AsyncIterator[Tracing]:
    async with tracing(tmp_path) as found:
        yield found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(post=posts(), zipped=st.booleans())
async def test_no_post_meets_an_unforeseen_error(traces: Tracing, post: tuple[bytes, str], zipped: bool) -> None:
    """Taken in part or in whole, or refused for a reason; what was taken becomes call logs, or stays as it is."""
    body, kind = post
    reply = await traces.export(
        gzip.compress(body, 1) if zipped else body, kind, content_encoding="gzip" if zipped else None
    )
    assert reply.status in {200, 400}, reply.raw
    await traces.later(RULE.close_after + RULE.idle_after)
    assert not [each for each in await traces.world.spool.traces.open() if each.spans]
    assert traces.world.intake.budget.used_bytes == 0


async def test_nothing_of_what_was_refused_stays(traces: Tracing) -> None:
    """A refusal holds the body that it is about until it is freed, which waits for no collector."""
    gc.collect()
    gc.disable()
    try:
        for kind in (PROTOBUF, JSON):
            assert (await traces.export(b"\xff{" * 100_000, kind)).status == 400
        assert (await traces.export(b"x" * 100_000, "text/plain")).status == 415
        assert not [each for each in gc.get_objects() if isinstance(each, Rejection)]
    finally:
        gc.enable()

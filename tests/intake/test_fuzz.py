"""Whatever is posted, the gateway answers it properly."""

import gzip
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.intake.bodies import call_log, envelope
from tests.intake.running_intake import RunningIntake

PATHS = ["/send-call-log", "/v1/calls", "/v1/calls/batch", "/get-upload-url"]
UNFORESEEN = {b'"internal"', b'"spool_unavailable"'}

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from(
    ["call_id", "agent_id", "wcall_event", "environment", "token", "compressed", "data", "s3_reference", "s3_key"]
)
documents = st.dictionaries(field_names | st.text(max_size=5), json_values, max_size=6).map(
    lambda document: json.dumps(document).encode()
)
seeds = st.sampled_from([call_log(), call_log(size=2000), envelope(call_log(size=500)), b'{"call_id": NaN}'])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound body with a few bytes changed, cut out, or put in."""
    body = bytearray(draw(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(body) - 1)))
        body[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(body)


bodies = st.binary(max_size=200) | documents | mutated()
encodings = st.sampled_from([None, "gzip", "deflate", "zstd", "gzip, gzip", "br", "identity"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, encoding=encodings, zipped=st.booleans(), path=st.sampled_from(PATHS))
async def test_no_body_meets_an_unforeseen_error(
    world: RunningIntake, body: bytes, encoding: str | None, zipped: bool, path: str
) -> None:
    """Arbitrary and damaged bodies are accepted or refused for a reason, and hold no memory afterwards."""
    reply = await world.post(gzip.compress(body) if zipped else body, path, content_encoding=encoding)
    assert reply.status < 500
    assert not any(code in reply.raw for code in UNFORESEEN)
    for line in reply.raw.splitlines():
        json.loads(line)
    assert world.intake.budget.used_bytes == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), method=st.sampled_from(["GET", "POST", "PUT", "X"]), path=st.text(max_size=20))
async def test_no_request_is_answered_with_a_5xx(world: RunningIntake, data: bytes, method: str, path: str) -> None:
    """Arbitrary paths, methods and heads are refused as the client's fault."""
    head = f"{method} /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    answer = await world.send_raw(head + data + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 4")

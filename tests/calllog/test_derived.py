"""What is derived for a core, and when it is left out."""

import json

import pytest

from gateway.calllog.document import parse
from gateway.calllog.split import split
from tests.calllog.joined_documents import core

SPAN = b'{"name":"a","duration_ms":1.5}'


@pytest.mark.parametrize(
    ("span", "count", "summarised"),
    [(SPAN, 3, True), (SPAN, 400_001, False), (b'{"name":"%b"}' % (b"x" * 600_000), 10, True)],
    ids=["few", "too many", "large"],
)
def test_lists_of_too_many_objects_are_not_summarised(span: bytes, count: int, summarised: bool) -> None:
    """A summary is left out for the number of objects, which take memory, and not for their length."""
    document = b'{"call_id":"a","telemetry_data":{"session_traces":[%b]}}' % b",".join([span] * count)
    parts = split(parse(document))
    assert ("telemetry_summary" in json.loads(core(parts))) is summarised

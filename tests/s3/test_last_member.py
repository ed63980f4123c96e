"""A member is put at the end of an object, wherever the stream is cut."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploaders.document.render import encoded_member, with_last_member

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


async def chunked(document: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    edges = [0, *sorted(cut % (len(document) + 1) for cut in cuts), len(document)]
    for begin, end in pairwise(edges):
        yield document[begin:end]


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    members=st.dictionaries(st.text(), values, min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    behind=st.text(" \t\r\n"),
    indent=st.sampled_from([None, 1]),
)
async def test_any_object_cut_anywhere_gets_the_member_at_its_end(
    members: dict[str, Any], cuts: list[int], behind: str, indent: int | None
) -> None:
    """All bytes stay as they were; the member stands before the last brace."""
    document = (json.dumps(members, indent=indent) + behind).encode()
    member = encoded_member("\x00token", 'a"b')
    result = b"".join([chunk async for chunk in with_last_member(chunked(document, cuts), member)])
    end = document.rindex(b"}")
    assert result == document[:end] + member + document[end:]
    assert json.loads(result) == members | {"\x00token": 'a"b'}

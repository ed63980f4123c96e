"""Whatever a provider sends or somebody makes up, the listener answers it properly, and holds nothing of it."""

import gc
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.calllog.errors import CallLogError
from gateway.intake.responses import Rejection
from gateway.webhooks.providers import PROVIDERS
from spool.errors import SpoolError
from tests.webhooks.senders import Listener, body_of, listening
from uploaders.recordings import DirectoryRecordings

pytestmark = pytest.mark.usefixtures("no_collector")

SEEDS = [
    (name, body_of(provider, sample)) for name, provider in PROVIDERS.items() for sample in provider.samples.values()
]
AUDIO = ("elevenlabs", b'{"type":"post_call_audio","data":{"conversation_id":"c","full_audio":"AAAA"}}')

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def members_of(value: object) -> Iterator[tuple[dict[str, Any], str]]:
    """Every member of every object in it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield value, name
            yield from members_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members_of(inner)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A provider's event with other values in it, or other bytes."""
    name, body = draw(st.sampled_from([*SEEDS, AUDIO]))
    if not PROVIDERS[name].is_form and draw(st.booleans()):
        document = json.loads(body)
        places = list(members_of(document))
        for place, member in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
            place[member] = draw(json_values)
        return name, json.dumps(document).encode()
    changed = bytearray(body)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        changed[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return name, bytes(changed)


events = mutated() | st.tuples(
    st.sampled_from(sorted(PROVIDERS)),
    st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()),
)


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    async with listening(tmp_path / "spool", store=DirectoryRecordings(tmp_path / "recordings")) as found:
        yield found


def refusals_held() -> list[object]:
    """Errors that were answered: each would hold the body that it is about."""
    return [each for each in gc.get_objects() if isinstance(each, Rejection | CallLogError | SpoolError)]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=events)
async def test_what_is_genuine_is_kept_whatever_is_in_it(listener: Listener, event: tuple[str, bytes]) -> None:
    """200, or 501 to a question; never a refusal, never an error."""
    name, body = event
    reply = await listener.push(name, body)
    assert reply.status == 200 or (reply.status, reply.code) == (501, "needs_answer"), reply.raw
    assert listener.world.intake.budget.used_bytes == 0


header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=120)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(PROVIDERS)), value=header_values, body=st.binary(max_size=50))
async def test_what_is_made_up_is_refused(listener: Listener, name: str, value: str, body: bytes) -> None:
    """Whatever stands in the header of the signature: 401, and nothing is kept."""
    scheme = PROVIDERS[name].scheme
    other = "A" * 43 + "=" if name == "telnyx" else "another-secret-of-thirty-two-characters!"
    genuine = scheme.sign(other, body, listener.now)
    for headers in ({scheme.header: value}, {**genuine, scheme.header: value}, genuine):
        reply = await listener.send(f"/webhooks/{name}", body, headers)
        assert reply.status == 401, reply.raw
    assert listener.world.intake.budget.used_bytes == 0


async def test_nothing_of_what_was_refused_stays(listener: Listener) -> None:
    """A refusal holds the body that it is about until it is freed, which waits for no collector."""
    before = refusals_held()  # of other tests, which hold them
    for name, body in SEEDS:
        await listener.push(name, body + b" " * 200_000, at=1.0)
        await listener.send(f"/webhooks/{name}", body * 100, {})
    assert (await listener.push("vapi", b'{"message":{"type":"tool-calls"}}')).status == 501
    assert not [each for each in refusals_held() if not any(each is other for other in before)]

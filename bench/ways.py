"""What the ways in from outside take: webhooks while details drain, an hour of audio, ten thousand spans.

    make bench ARGS=ways

A webhook of 20 KB is verified, durable and answered; beside it stands the same while nothing drains. A probe of the
event loop goes with the spans: a request for a path that is not there, one every millisecond, takes as long as the loop
was held by something else, and as long as the machine was.
"""

import asyncio
import base64
import contextlib
import io
import json
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import aiohttp
import click
from rich.console import Console
from rich.table import Table

from bench.intake import post
from bench.journal import Journal
from bench.latency import quantile
from bench.memory import PeakMemory
from bench.processes import free_port, wait_until
from bench.servers import Running, callspool, endpoint
from bench.sizes import LARGE, write_bodies

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_SECRET = "a-secret-of-more-than-thirty-two-characters"
_WEBHOOK_BYTES = 20_000
_EVERY_SECONDS = 0.02
_AUDIO_BYTES = 30_000_000
"""40 MB as base64."""
_ATTRIBUTES = 8


@click.command()
@click.option("--seconds", type=click.FloatRange(0.2, 20), default=8.0, show_default=True, help="Of webhooks.")
@click.option("--backlog", type=click.IntRange(0, 1000), default=60, show_default=True, help="15 MB call logs.")
@click.option("--spans", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="Of one post.")
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True, help="Of audio and spans.")
def ways(seconds: float, backlog: int, spans: int, rounds: int) -> None:
    """Measure webhooks beside a drain, audio in a webhook, and a post of many spans."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ways-", dir=folder) as name:
        for one in ("drain-0", f"drain-{backlog}", "audio", "protobuf", "JSON"):
            (Path(name) / one).mkdir(exist_ok=True)
        asyncio.run(_measure(Path(name), seconds, backlog, spans, rounds))


async def _measure(folder: Path, seconds: float, backlog: int, spans: int, rounds: int) -> None:
    console = Console()
    table = Table("webhooks of 20 KB, one every 20 ms", "answered", "p50", "p99", "longest")
    for what, count in (("nothing else to do", 0), ("while details of 15 MB drain", backlog)):
        took = await _webhooks(folder / f"drain-{count}", seconds, count)
        figures = (median(took), quantile(sorted(took), 0.99), max(took))
        table.add_row(what, f"{len(took)}", *[f"{1000 * figure:.1f} ms" for figure in figures])
    console.print(table)
    audio, peak = await _audio(folder / "audio", rounds)
    console.print(
        f"40 MB of base64 in chunks: durable as a file and answered in {1000 * median(audio):.0f} ms, beside "
        f"{peak / 1e6:.0f} MB of anonymous memory at most"
    )
    table = Table(f"{spans:,} spans of {_ATTRIBUTES} attributes in one post", "size", "answered in", "loop held for")
    for kind, body in (("protobuf", spans_in_protobuf(spans)), ("JSON", spans_in_json(spans))):
        answered, held, idle = await _spans(folder / kind, kind, body, rounds)
        table.add_row(
            kind,
            f"{len(body) / 1e6:.1f} MB",
            f"{1000 * median(answered):.0f} ms",
            f"{1000 * median(held):.1f} ms (without it {1000 * median(idle):.1f})",
        )
    console.print(table)


# Webhooks.


@contextlib.contextmanager
def _listening(folder: Path, endpoint_port: int) -> Iterator[tuple[Running, str]]:
    port = free_port()
    environment = {
        "CALLSPOOL_WEBHOOKS_LISTEN": f"127.0.0.1:{port}",
        "CALLSPOOL_WEBHOOKS_RECORDINGS": str(folder / "recordings"),
        "CALLSPOOL_RETELL_KEY": _SECRET,
        "CALLSPOOL_ELEVENLABS_SECRET": _SECRET,
    }
    with callspool(folder, endpoint_port=endpoint_port, settings=environment) as running:
        yield running, f"http://127.0.0.1:{port}/webhooks"


async def _webhooks(folder: Path, seconds: float, backlog: int) -> list[float]:
    """From the beginning of each webhook to its 200; `backlog` large call logs begin to drain before the first."""
    port = free_port()
    if backlog:
        large = write_bodies(LARGE, folder / "bodies")
        with callspool(folder, endpoint_port=port) as running:
            post(running.intake_port, large, connections=2, seconds=120, warmup=0, max_posts=backlog)
    with contextlib.ExitStack() as stack:
        journal = Journal(stack.enter_context(endpoint(folder, port)))
        running, url = stack.enter_context(_listening(folder, port))

        def drains() -> bool:
            running.resume()
            journal.read()
            return bool(journal.arrived)

        if backlog:
            wait_until(drains, "it drains", 30)
        return await _pushed(f"{url}/retell", seconds)


async def _pushed(url: str, seconds: float) -> list[float]:
    from gateway.webhooks.providers import PROVIDERS  # noqa: PLC0415  # it costs start-up time in every process

    scheme, took = PROVIDERS["retell"].scheme, list[float]()
    turns = [{"role": "user", "content": "words that somebody said in this turn"}] * (_WEBHOOK_BYTES // 70)
    began = due = time.monotonic()
    async with aiohttp.ClientSession() as session:
        while due - began < seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            call = {"call_id": f"bench-{len(took)}", "transcript_object": turns}
            body = json.dumps({"event": "call_ended", "call": call}).encode()
            headers = scheme.sign(_SECRET, body, time.time())
            started = time.perf_counter()
            async with session.post(url, data=body, headers=headers) as response:
                answer = await response.read()
                assert response.status == 200, answer
            took.append(time.perf_counter() - started)
            due += _EVERY_SECONDS
    return took


async def _audio(folder: Path, rounds: int) -> tuple[list[float], int]:
    """Seconds until audio is durable and answered, and the most anonymous memory of the gateway."""
    from gateway.webhooks.providers import PROVIDERS  # noqa: PLC0415  # as above

    text = base64.b64encode(bytes(range(256)) * (_AUDIO_BYTES // 256)).decode()
    took = []
    with _listening(folder, free_port()) as (running, url), PeakMemory(running.process.pid) as memory:
        async with aiohttp.ClientSession() as session:
            for number in range(rounds):
                data = {"conversation_id": f"hour-{number}", "full_audio": text}
                event = {"type": "post_call_audio", "event_timestamp": number, "data": data}
                body = json.dumps(event).encode()
                headers = PROVIDERS["elevenlabs"].scheme.sign(_SECRET, body, time.time())
                started = time.perf_counter()
                async with session.post(f"{url}/elevenlabs", data=_pieces(body), headers=headers) as response:
                    assert response.status == 200, await response.read()
                took.append(time.perf_counter() - started)
    return took, memory.peak.anonymous or 0


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


# Spans.


def spans_in_protobuf(count: int) -> bytes:
    """A post of so many spans, of which 500 make a trace, as exporters send it."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415  # an extra
        ExportTraceServiceRequest,
    )

    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in range(count):
        _fill(spans.add(), number)
    return request.SerializeToString()


def _fill(span: "Span", number: int) -> None:
    span.trace_id, span.span_id = (number // 500 + 1).to_bytes(16, "big"), (number + 1).to_bytes(8, "big")
    span.name, span.start_time_unix_nano, span.end_time_unix_nano = "llm_node", 10**18, 10**18 + 1
    for name, value in _attributes(number).items():
        attribute = span.attributes.add()
        attribute.key, attribute.value.string_value = name, value


def spans_in_json(count: int) -> bytes:
    """The same in JSON."""
    spans = [
        {
            "traceId": f"{number // 500 + 1:032x}",
            "spanId": f"{number + 1:016x}",
            "name": "llm_node",
            "startTimeUnixNano": str(10**18),
            "endTimeUnixNano": str(10**18 + 1),
            "attributes": [{"key": key, "value": {"stringValue": text}} for key, text in _attributes(number).items()],
        }
        for number in range(count)
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


def _attributes(number: int) -> dict[str, str]:
    return {f"gen_ai.attribute.number_{place}": f"the value of it {number} " * 2 for place in range(_ATTRIBUTES)}


async def _spans(folder: Path, kind: str, body: bytes, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds to the 200; the longest answer to the probe meanwhile; and the longest in as long a time without."""
    took, held, idle = [], [], []
    headers = {"Content-Type": "application/x-protobuf" if kind == "protobuf" else "application/json"}
    with callspool(folder, endpoint_port=free_port()) as running:
        url = f"http://127.0.0.1:{running.intake_port}"
        async with aiohttp.ClientSession() as session:
            for number in range(rounds + 1):
                started = time.perf_counter()
                async with _probing(f"{url}/nothing") as probed:
                    async with session.post(f"{url}/v1/traces", data=io.BytesIO(body), headers=headers) as response:
                        assert response.status == 200, await response.read()
                    seconds = time.perf_counter() - started
                async with _probing(f"{url}/nothing") as quiet:
                    await asyncio.sleep(seconds)
                if number:  # the first one imports what it needs
                    took.append(seconds)
                    held.append(max(probed))
                    idle.append(max(quiet))
    return took, held, idle


@contextlib.asynccontextmanager
async def _probing(url: str) -> AsyncIterator[Sequence[float]]:
    """Ask again and again during the block; how long each answer took."""
    took, stopped = [0.0], asyncio.Event()

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            while not stopped.is_set():
                started = time.perf_counter()
                async with session.get(url) as response:
                    await response.read()
                took.append(time.perf_counter() - started)
                await asyncio.sleep(0.001)

    asking = asyncio.create_task(ask())
    try:
        yield took
    finally:
        stopped.set()
        await asking

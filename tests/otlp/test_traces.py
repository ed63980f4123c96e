"""From posts of spans to one call log for each call."""

import asyncio
import gzip
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from gateway.intake.accept import UNKNOWN
from gateway.intake.generated import accept_generated
from gateway.otlp import assembler as assembler_module
from gateway.otlp.assembler import ClosingRule
from gateway.otlp.posts import POST_BYTES, from_protobuf
from gateway.otlp.source import JSON, PROTOBUF
from gateway.otlp.spans import SpanRule
from gateway.tenants import Tenant, TenantTable
from spool.directory import DATABASE_NAME
from spool.records import NewSpans, OwnedCall
from tests.intake.bodies import ENCODERS
from tests.intake.running_intake import ENDPOINT
from tests.otlp.captured import as_json, in_posts, post, renamed, request
from tests.otlp.tracing import RULE, Tracing, tracing
from tests.spool.salvaged_spools import bring
from tests.spool.spool_parts import cancelled_once_durable


def trace_id(name: str) -> str:
    return request(name).resource_spans[0].scope_spans[0].spans[0].trace_id.hex()


CALLS = [("livekit-3-turns-with-tool", 6, 27), ("livekit-10-turns", 20, 58), ("livekit-50-turns", 100, 258)]


@pytest.mark.parametrize(("name", "turns", "spans"), CALLS)
async def test_a_call_becomes_one_call_log(tmp_path: Path, name: str, turns: int, spans: int) -> None:
    """Five quiet seconds after its root span: transcript from the attributes, spans as telemetry, no row left."""
    async with tracing(tmp_path) as traces:
        for body in in_posts(request(name), 4):
            assert (await traces.export(body)).status == 200
        await traces.later(RULE.close_after - 1)
        call_id = trace_id(name)
        assert await traces.call_logs(call_id) == []
        await traces.later(1)
        (call_log,) = await traces.call_logs(call_id)
        assert call_log["wcall_event"] == "call_ended"
        assert [turn["role"] for turn in call_log["transcript_json"]].count("user") == turns // 2
        assert len(call_log["transcript_json"]) == turns
        assert len(call_log["telemetry_data"]["session_traces"]) == spans
        starts = [span["start_time_ns"] for span in call_log["telemetry_data"]["session_traces"]]
        assert starts == sorted(starts)
        (left,) = await traces.world.spool.traces.open()
        assert (left.spans, left.raw_bytes) == (0, 0)
        assert [row async for row in traces.world.spool.traces.rows(left.trace_id, left.principal)] == []


async def test_what_an_exporter_sends_twice_is_in_it_once(tmp_path: Path) -> None:
    """An exporter that saw no answer sends the same spans again."""
    async with tracing(tmp_path) as traces:
        for _ in range(2):
            await traces.export(post("livekit-10-turns"))
        await traces.later(RULE.close_after)
        (call_log,) = await traces.call_logs(trace_id("livekit-10-turns"))
        assert call_log["otel"]["spans"] == 58


async def test_spans_whose_sender_went_away_during_their_commit_become_a_call_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are durable, and nobody sends them again: without a call log they would lie in the spool until a restart."""
    async with tracing(tmp_path) as traces:
        adding = traces.assembler.add(from_protobuf(post("livekit-10-turns"), SpanRule()), None)
        await cancelled_once_durable(adding, monkeypatch)
        await traces.later(RULE.close_after)
        assert len(await traces.call_logs(trace_id("livekit-10-turns"))) == 1


async def test_interleaved_calls_are_told_apart(tmp_path: Path) -> None:
    """Two calls whose posts alternate, one of them with its root first: each has its own spans."""
    async with tracing(tmp_path) as traces:
        one, other = (renamed(request("livekit-10-turns"), number) for number in (1, 2))
        for mine, theirs in zip(in_posts(one, 5), reversed(in_posts(other, 5)), strict=True):
            await traces.export(mine)
            await traces.export(theirs)
        await traces.later(RULE.close_after)
        for number in (1, 2):
            (call_log,) = await traces.call_logs(number.to_bytes(16, "big").hex())
            assert call_log["otel"]["spans"] == 58


async def test_a_call_without_an_end_is_put_together_when_it_is_idle(tmp_path: Path) -> None:
    """The root span never comes: its process was killed."""
    async with tracing(tmp_path) as traces:
        await traces.export(in_posts(request("livekit-10-turns"), 2)[0])
        await traces.later(RULE.idle_after - 1)
        assert await traces.call_logs(trace_id("livekit-10-turns")) == []
        await traces.later(1)
        assert len(await traces.call_logs(trace_id("livekit-10-turns"))) == 1


@pytest.mark.parametrize("restarts", [False, True], ids=["while it runs", "between two runs"])
async def test_a_clock_that_is_set_back_keeps_no_call_open(tmp_path: Path, restarts: bool) -> None:
    """Neither one that has ended nor one that is idle waits until the clock is as late again."""
    hours = 10 * 3_600_000
    async with tracing(tmp_path) as traces:
        await traces.later(hours)
        await traces.export(in_posts(renamed(request("livekit-10-turns"), 1), 2)[0])
        await traces.export(renamed(request("livekit-10-turns"), 2).SerializeToString())
        if not restarts:
            await traces.later(-hours)
            made = await made_in_time(traces)
    if restarts:
        async with tracing(tmp_path) as traces:
            made = await made_in_time(traces)
    assert made == [1, 1]


async def made_in_time(traces: Tracing) -> list[int]:
    """How many call logs the second call has when an ended one is due, and the first when an idle one is."""
    made = []
    for number, milliseconds in ((2, RULE.close_after), (1, RULE.idle_after - RULE.close_after)):
        await traces.later(milliseconds)
        made.append(len(await traces.call_logs(number.to_bytes(16, "big").hex())))
    return made


@pytest.mark.parametrize("event", [{"wcall_event": "call_ended"}, {}], ids=["end", "whole"])
async def test_the_calls_own_end_makes_its_spans_an_update(tmp_path: Path, event: dict[str, str]) -> None:
    """Where the agent posts its end too, or the whole call at once, there is one end, and the spans come after it."""
    name = "livekit-10-turns"
    async with tracing(tmp_path) as traces:
        await traces.export(in_posts(request(name), 2)[0])
        await traces.world.post({"call_id": trace_id(name), **event}, "/v1/calls")
        await traces.later(RULE.close_after)
        ended, update = await traces.call_logs(trace_id(name))
        assert ended.get("wcall_event") == event.get("wcall_event")
        assert update["update_type"] == "late_spans"
        assert "wcall_event" not in update


async def test_an_end_that_came_another_way_closes_the_trace(tmp_path: Path) -> None:
    """A webhook, say, whose recording is copied: what accepts it owes deliveries of its own."""
    name = "livekit-10-turns"
    async with tracing(tmp_path) as traces:
        await traces.export(in_posts(request(name), 2)[0])
        intake = traces.world.intake
        end = {"call_id": trace_id(name), "wcall_event": "call_ended"}
        await accept_generated(end, UNKNOWN, intake.reader, intake.make_acceptor([ENDPOINT]))
        await traces.later(RULE.close_after)
        assert len(await traces.call_logs(trace_id(name))) == 2


async def test_late_spans_are_an_update(tmp_path: Path) -> None:
    """What comes after the call log was made is not lost, and does not replace it."""
    name = "livekit-10-turns"
    first, second = in_posts(request(name), 2)
    async with tracing(tmp_path) as traces:
        await traces.export(second)
        await traces.later(RULE.close_after)
        await traces.export(first)
        await traces.later(RULE.close_after)
        made, update = await traces.call_logs(trace_id(name))
        assert made["wcall_event"] == "call_ended"
        assert update["update_type"] == "late_spans"
        assert made["otel"]["spans"] + update["otel"]["spans"] == 58


async def test_a_call_that_grows_too_large_is_put_together_in_parts(tmp_path: Path) -> None:
    """The memory for one call is bounded; no span is lost by it."""
    async with tracing(tmp_path, ClosingRule(spans_max=20)) as traces:
        for body in in_posts(request("livekit-10-turns"), 4):
            await traces.export(body)
            await traces.later(1)
        await traces.later(RULE.close_after)
        made = await traces.call_logs(trace_id("livekit-10-turns"))
        assert len(made) > 1
        assert sum(call_log["otel"]["spans"] for call_log in made) == 58
        assert [("wcall_event" in call_log) for call_log in made] == [True] + [False] * (len(made) - 1)


async def test_open_calls_survive_a_restart(tmp_path: Path) -> None:
    """Spans that were answered 200 are there after a crash, with what they said of the call."""
    name = "livekit-10-turns"
    posts = in_posts(request(name), 3)
    async with tracing(tmp_path) as traces:
        for body in posts[:2]:
            await traces.export(body, headers={"x-pype-token": "agents-key"})
    async with tracing(tmp_path) as traces:
        await traces.export(posts[2], headers={"x-pype-token": "agents-key"})
        await traces.later(RULE.close_after)
        (traced,) = await traces.world.spool.trace(trace_id(name))
        (call_log,) = await traces.call_logs(trace_id(name))
        assert call_log["otel"]["spans"] == 58
        assert traced.record.token_id is not None
        assert await traces.world.spool.token(traced.record.token_id) == "agents-key"


async def test_json_and_encodings_are_taken(tmp_path: Path) -> None:
    """JSON as JavaScript's exporters send it, gzip and zstd."""
    async with tracing(tmp_path) as traces:
        reply = await traces.export(as_json(renamed(request("livekit-10-turns"), 1)), JSON)
        assert (reply.status, reply.json) == (200, {})
        for number, coding in enumerate(("gzip", "zstd"), 2):
            body = ENCODERS[coding](renamed(request("livekit-10-turns"), number).SerializeToString())
            reply = await traces.export(body, content_encoding=coding)
            assert (reply.status, reply.headers["Content-Type"]) == (200, PROTOBUF)
        await traces.later(RULE.close_after)
        for number in (1, 2, 3):
            assert len(await traces.call_logs(number.to_bytes(16, "big").hex())) == 1


async def test_rejected_spans_are_said_in_the_answer(tmp_path: Path) -> None:
    """Partial success, in the encoding of the request."""
    message = request("pipecat-pipeline")
    message.resource_spans[0].scope_spans[0].spans[0].trace_id = b"short"
    async with tracing(tmp_path) as traces:
        reply = await traces.export(message.SerializeToString())
        answer = ExportTraceServiceResponse.FromString(reply.raw).partial_success
        assert (reply.status, answer.rejected_spans) == (200, 1)
        assert "trace id" in answer.error_message
        reply = await traces.export(as_json(message), JSON)
        assert reply.json["partialSuccess"]["rejectedSpans"] == "1"


UNREADABLE = [(b"\xff\xff", PROTOBUF, 400), (b"{", JSON, 400), (b"x", "text/plain", 415)]


@pytest.mark.parametrize(("body", "kind", "status"), UNREADABLE)
async def test_what_cannot_be_read_is_refused_for_good(tmp_path: Path, body: bytes, kind: str, status: int) -> None:
    """An exporter gives up after a 400: it would send the same again."""
    async with tracing(tmp_path) as traces:
        assert (await traces.export(body, kind)).status == status


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.proto"])
async def test_protobuf_without_its_extra_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Also where no package of OpenTelemetry is installed at all; JSON needs none."""
    monkeypatch.delitem(sys.modules, "opentelemetry.proto")
    monkeypatch.setitem(sys.modules, missing, None)
    async with tracing(tmp_path) as traces:
        reply = await traces.export(b"")
        assert (reply.status, reply.code) == (415, "no_protobuf")
        assert "callspool[otlp]" in reply.json["error"]["hint"]
        assert (await traces.export(b"{}", JSON)).status == 200


async def test_posts_are_counted_in_either_encoding(tmp_path: Path) -> None:
    """Where only refusals of one were counted, it would seem that all of its posts are refused."""
    async with tracing(tmp_path) as traces:
        await traces.export(post("pipecat-pipeline"))
        assert traces.world.counted("otlp_traces", "answered") == 1
        await traces.export(as_json(request("pipecat-pipeline")), JSON)
        assert traces.world.counted("otlp_traces", "answered") == 2


async def test_a_full_spool_is_503_within_the_exporters_patience(tmp_path: Path) -> None:
    """No exporter repeats a 507, nor waits longer than some seconds."""
    async with tracing(tmp_path, spool_max=1 << 20) as traces:
        statuses = set()
        for number in range(1, 40):
            reply = await traces.export(renamed(request("livekit-50-turns"), number).SerializeToString())
            statuses.add((reply.status, reply.headers.get("Retry-After")))
        assert (503, "1") in statuses
        assert {status for status, _ in statuses} <= {200, 503}


async def test_a_failed_call_log_is_made_later(tmp_path: Path) -> None:
    """Rows go with the acceptance of their call log, and with nothing else."""
    async with tracing(tmp_path) as traces:
        await traces.export(post("livekit-10-turns"))
        traces.world.clock.now += RULE.close_after
        closing = asyncio.ensure_future(traces.assembler.close_due())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await traces.later(1)
        assert len(await traces.call_logs(trace_id("livekit-10-turns"))) == 1


async def test_other_destinations_keep_their_plans(tmp_path: Path) -> None:
    """A call log of spans is owed like any other."""
    async with tracing(tmp_path, destinations=(ENDPOINT,)) as traces:
        await traces.export(post("pipecat-pipeline"))
        await traces.later(RULE.close_after)
        (trace,) = await traces.world.spool.traces.open()
        assert trace.call_id is not None
        (traced,) = await traces.world.spool.trace(trace.call_id)
        assert [delivery.destination for delivery in traced.deliveries] == ["endpoint"]


async def test_the_same_trace_of_two_senders_is_two_calls(tmp_path: Path) -> None:
    """What one principal posts is never in what another's call log holds, whatever ids it uses."""
    async with tracing(tmp_path) as traces:
        first, second = in_posts(request("livekit-10-turns"), 2)
        await traces.export(first, headers={"x-pype-token": "key-of-one"})
        await traces.export(second, headers={"x-pype-token": "key-of-another"})
        await traces.world.post(
            {"call_id": trace_id("livekit-10-turns"), "wcall_event": "call_ended"},
            "/v1/calls",
            headers={"x-pype-token": "key-of-a-third"},
        )
        await traces.later(RULE.close_after)
        assert len(await traces.world.spool.trace(trace_id("livekit-10-turns"))) == 2, "nobody ended that of the first"
        await traces.later(RULE.idle_after)
        logs = (await traces.call_logs(trace_id("livekit-10-turns")))[1:]
        assert [log["wcall_event"] for log in logs] == ["call_ended"] * 2
        assert sum(log["otel"]["spans"] for log in logs) == 58


async def test_a_call_that_is_erased_while_it_is_put_together_holds_up_no_other(tmp_path: Path) -> None:
    """Several traces are due, and an order takes those away that are in hand and to come: the others become call logs,
    then and later."""
    ids = [OwnedCall(number.to_bytes(16, "big").hex()) for number in (1, 2, 3)]
    async with tracing(tmp_path) as traces:
        for number in (1, 2, 3):
            await traces.export(renamed(request("livekit-10-turns"), number).SerializeToString())
        traces.world.clock.now += RULE.close_after
        closing = asyncio.create_task(traces.assembler.close_due())
        await asyncio.sleep(0)  # the first one is being read
        traces.assembler.erased(ids[:2])
        await closing
        assert len(await traces.call_logs(ids[2].call_id)) == 1
        assert traces.world.intake.acceptor.open_calls.open_calls(traces.world.clock.now) == 0


async def test_an_erasure_for_a_tenant_leaves_the_trace_of_another(tmp_path: Path) -> None:
    """The same call of two tenants is two traces."""
    call_id, export = trace_id("livekit-10-turns"), from_protobuf(post("livekit-10-turns"), SpanRule())
    async with tracing(tmp_path) as traces:
        for tenant in ("acme", "other"):
            await traces.assembler.add(export, None, tenant)
        await traces.world.spool.erasures.give_up(OwnedCall(call_id, "acme"))
        traces.assembler.erased([OwnedCall(call_id, "acme")])
        await traces.later(RULE.close_after)
        (traced,) = await traces.world.spool.trace(call_id)
        assert traced.record.tenant == "other"


async def test_a_call_log_of_a_tenants_spans_is_sent_with_the_token_of_the_tenant(tmp_path: Path) -> None:
    """Its exporter presents the token of the intake, which no endpoint knows."""
    tenants = TenantTable([Tenant("acme", endpoint_token="for-acme")])
    async with tracing(tmp_path, tenants=tenants) as traces:
        await traces.assembler.add(from_protobuf(post("livekit-10-turns"), SpanRule()), None, "acme")
        await traces.later(RULE.close_after)
        record = (await traces.world.only_record(trace_id("livekit-10-turns"))).record
        assert await traces.world.spool.token(record.token_id or 0) == "for-acme"


async def test_spans_that_were_on_their_way_when_their_call_was_erased_are_deleted(tmp_path: Path) -> None:
    """They become no call log, and nothing tries to make one of them for ever."""
    async with tracing(tmp_path) as traces:
        await traces.export(post("livekit-10-turns"), headers={"x-pype-token": "agents-key"})
        await traces.world.spool.erasures.order([OwnedCall(trace_id("livekit-10-turns"))])
        await traces.later(RULE.close_after)
        assert await traces.call_logs(trace_id("livekit-10-turns")) == []
        ask = traces.world.spool.reader.ask
        counts = [await ask(f"SELECT count(*) FROM {table}") for table in ("traces", "trace_rows", "tokens")]
        assert counts == [[(0,)]] * 3


async def test_damaged_spans_are_named_and_the_others_delivered(tmp_path: Path) -> None:
    """A row whose checksum differs holds up neither the call nor what is posted later."""
    posts = in_posts(request("livekit-10-turns"), 3)
    async with tracing(tmp_path) as traces:
        for body in posts:
            await traces.export(body)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as database:
        database.execute("UPDATE trace_rows SET frame = zeroblob(length(frame)) WHERE row_id = 2")
        database.commit()
    async with tracing(tmp_path) as traces:
        await traces.later(RULE.close_after)
        (call_log,) = await traces.call_logs(trace_id("livekit-10-turns"))
        assert call_log["otel"]["damaged_spans"] == 20
        assert call_log["otel"]["spans"] == 38
        (left,) = await traces.world.spool.traces.open()
        assert (left.spans, left.raw_bytes) == (0, 0)


async def test_a_call_of_many_mib_is_made_in_a_file(tmp_path: Path) -> None:
    """Its lines are sorted without being in memory, and it is split like any large call log."""
    message = request("livekit-10-turns")
    root = next(s for s in message.resource_spans[0].scope_spans[0].spans if not s.parent_span_id)
    async with tracing(tmp_path, ClosingRule(bytes_max=64 << 20)) as traces:
        for number in range(6):
            large = ExportTraceServiceRequest()
            scope = large.resource_spans.add().scope_spans.add()
            for each in range(8):
                span = scope.spans.add(trace_id=root.trace_id, span_id=(number * 8 + each + 1).to_bytes(8, "big"))
                span.start_time_unix_nano = 10**18 + (97 * (number * 8 + each)) % 48
                span.parent_span_id = root.span_id
                span.attributes.add(key="chat").value.string_value = Random(span.span_id).randbytes(60_000).hex()
            assert (await traces.export(large.SerializeToString())).status == 200
        await traces.later(RULE.idle_after)
        (call_log,) = await traces.call_logs(root.trace_id.hex())
        spans = call_log["telemetry_data"]["session_traces"]
        assert [span["start_time_ns"] for span in spans] == [10**18 + number for number in range(48)]
        assert {len(span["attributes"]["chat"]) for span in spans} == {120_000}
        assert not list((tmp_path / "staging").iterdir())


async def test_a_request_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Also one that only decodes to so much."""
    async with tracing(tmp_path) as traces:
        assert (await traces.export(bytes(POST_BYTES + 1))).status == 413
        reply = await traces.export(gzip.compress(Random(1).randbytes(1 << 20) * 21), content_encoding="gzip")
        assert (reply.status, reply.json["error"]["code"]) == (413, "too_large")


async def test_more_open_traces_than_memory_is_for_are_refused_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter is to come again within its ten seconds; closed ones make room."""
    monkeypatch.setattr(assembler_module, "_OPEN_MOST", 2)
    async with tracing(tmp_path) as traces:
        bodies = [renamed(request("pipecat-pipeline"), number).SerializeToString() for number in (1, 2, 3)]
        replies = [await traces.export(body) for body in bodies]
        assert [(reply.status, reply.headers.get("Retry-After")) for reply in replies] == [
            (200, None),
            (200, None),
            (503, "1"),
        ]
        await traces.later(RULE.idle_after)
        assert (await traces.export(bodies[2])).status == 200


async def test_what_is_no_span_in_the_spool_holds_up_nothing(tmp_path: Path) -> None:
    """An adopted spool may hold anything, with checksums that fit; the spans beside it are delivered."""
    async with tracing(tmp_path) as traces:
        await traces.export(post("livekit-10-turns"))
        (trace,) = await traces.world.spool.traces.open()
        for row in (b"\xff\xff", b"{", b'{"resourceSpans":[{"scopeSpans":[{"spans":[7]}]}]}',
                                      b'{"name":1}', b'{"name":"x"}', b"\x0a\x02\x12\x00", b""):  # fmt: skip
            new = NewSpans(trace.trace_id, row or b" ", 1)
            await traces.world.spool.traces.add([new], None, trace.principal)
            traces.world.spool.traces.imported(new, trace.principal, 0)
        await traces.later(RULE.close_after)
        (call_log,) = await traces.call_logs(trace_id("livekit-10-turns"))
        assert call_log["otel"]["spans"] == 58
        assert call_log["otel"]["damaged_spans"] >= 5
        (left,) = await traces.world.spool.traces.open()
        assert left.spans == 0


async def test_spans_that_a_salvage_brings_become_a_call_log(tmp_path: Path) -> None:
    """Half of a call was in a database that was damaged, the rest is posted to the new one."""
    first, second = in_posts(request("livekit-10-turns"), 2)
    async with tracing(tmp_path / "old") as traces:
        await traces.export(first)
    async with tracing(tmp_path / "new") as traces:
        tally = await bring(traces.world.spool, tmp_path / "old")
        assert tally.spans == 29
        await traces.export(second)
        await traces.later(RULE.close_after)
        (call_log,) = await traces.call_logs(trace_id("livekit-10-turns"))
        assert call_log["otel"]["spans"] == 58

"""The gateway's own spans, as a collector gets them: from the agent's span down to each attempt, through a SIGKILL."""

import time
from pathlib import Path

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from tests.system.collector import Collector, attributes_of, way_of
from tests.system.gateway_process import GatewayProcess, ReservedPort
from tests.system.waiting import until

TRACE, AGENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT, UNSAMPLED = f"00-{TRACE}-{AGENT}-01", f"00-{TRACE}-{AGENT}-00"
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


async def test_the_tree_is_whole_through_a_kill(tmp_path: Path) -> None:
    """Agent's span, post, commit, delivery, attempt: of core and detail, before a SIGKILL and after the restart; and
    nothing in it names the call, its token or its caller."""
    async with Collector() as collector, Endpoint(fault=Fault("status", status=500)) as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, **collector.settings}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            body = make_call_log(6_000_000, seed=1, call_id="secret-call-name")
            headers = {"traceparent": PARENT, "tracestate": "congo=t61", "x-pype-token": "secret-agents-key"}
            assert (await gateway.post(body, headers=headers)).status == 202

            async def tried() -> bool:
                return bool(collector.named("attempt") and collector.named("calls"))

            await until(tried, "the post and a failed attempt are at the collector")
            await gateway.kill()
            endpoint.set_fault(Fault())
            await gateway.start()
            await gateway.command("resume", "endpoint", *gateway.admin)
            await endpoint.wait_for(2)
            await gateway.delivered()

            async def ended() -> bool:
                return bool(collector.named("deliver core") and collector.named("deliver detail"))

            await until(ended, "the deliveries are at the collector")
        spans = collector.spans
        assert {span.trace_id.hex() for span in spans} == {TRACE}
        assert {span.trace_state for span in spans} == {"congo=t61"}
        assert len({span.span_id for span in spans}) == len(spans)
        for name in ("receive", "parse", "commit"):
            assert way_of(collector.named(name)[0], spans) == [name, "calls", AGENT]
        attempts = collector.named("attempt")
        assert {way_of(each, spans)[1] for each in attempts} == {"deliver core", "deliver detail"}
        assert all(way_of(each, spans)[2:] == ["commit", "calls", AGENT] for each in attempts)
        assert {attributes_of(each)["callspool.outcome"] for each in attempts} == {"retry", "delivered"}
        sent = {headers["traceparent"] for headers in endpoint.headers if "traceparent" in headers}
        assert {f"00-{TRACE}-{each.span_id.hex()}-01" for each in attempts} <= sent
        assert {headers.get("tracestate") for headers in endpoint.headers} == {"congo=t61"}
        everything = b"".join(collector.bodies)
        assert b"secret" not in everything
        assert all(each.get("service.name") == "callspool" for each in collector.resources)
        assert all(via is not None and via.startswith("1.1 callspool-") for via in collector.via)


async def test_what_its_sender_does_not_sample_goes_on_as_it_came(tmp_path: Path) -> None:
    """A parent that is not sampled decides for all below it; without one, the share that is configured."""
    async with Collector() as collector, Endpoint() as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, **collector.settings}
        settings |= {"CALLSPOOL_TRACES_SAMPLE_RATIO": "0", "OTEL_SERVICE_NAME": "sidecar-7"}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            await gateway.post(make_call_log(2_000, seed=1, call_id="unsampled"), headers={"traceparent": UNSAMPLED})
            await gateway.post(make_call_log(2_000, seed=2, call_id="without"))
            await gateway.post(make_call_log(2_000, seed=3, call_id="sampled"), headers={"traceparent": PARENT})
            await endpoint.wait_for(3)

            async def arrived() -> bool:
                return bool(collector.named("deliver whole") and collector.named("calls"))

            await until(arrived, "the post and the delivery that are sampled are at the collector")
        parents = {headers["Idempotency-Key"]: headers.get("traceparent") for headers in endpoint.headers}
        parent_of = {arrival.call_id: parents[arrival.key] for arrival in endpoint.arrivals}
        (attempt,) = collector.named("attempt")
        sampled = f"00-{TRACE}-{attempt.span_id.hex()}-01"
        assert parent_of == {"unsampled": UNSAMPLED, "without": None, "sampled": sampled}
        assert len(collector.named("calls")) == len(collector.named("deliver whole")) == 1
        assert collector.resources[0]["service.name"] == "sidecar-7"


async def test_a_collector_that_does_not_answer_costs_nothing_but_spans(tmp_path: Path) -> None:
    """Posts are taken and delivered, the stop is not held up, and it is said once, however many batches are lost."""
    nobody = ReservedPort()
    async with Endpoint() as endpoint:
        settings = {
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "CALLSPOOL_TRACES_ENDPOINT": f"http://127.0.0.1:{nobody.number}",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.05",
            **QUICKLY,
        }
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            for number in range(3):
                await gateway.post(make_call_log(2_000, seed=number, call_id=f"call-{number}"))
                await endpoint.wait_for(number + 1)

                async def failed(posts: int = number + 1) -> bool:
                    return await gateway.metric('callspool_trace_spans_total{result="failed"}') >= 4 * posts

                await until(failed, "its spans are lost")
            assert len(gateway.events("spans_not_sent")) == 1
            assert not [line for line in gateway.log.splitlines() if "opentelemetry" in line]
            started = time.monotonic()
            await gateway.hurry()
            assert time.monotonic() - started < 10
    nobody.close()


async def test_another_gateway_takes_the_spans_and_a_gateway_refuses_its_own(tmp_path: Path) -> None:
    """What one gateway sends is a call log at another's endpoint; its own intake would make call logs of it for ever,
    so that answers 508."""
    async with Endpoint() as far, Endpoint() as near:
        taking = {"CALLSPOOL_ENDPOINT_URL": far.url, "CALLSPOOL_OTLP_IDLE_AFTER": "1s"}
        async with GatewayProcess(tmp_path / "collector", taking) as collector:
            settings = {
                "CALLSPOOL_ENDPOINT_URL": near.url,
                "CALLSPOOL_TRACES_ENDPOINT": collector.intake_url,
                **QUICKLY,
            }
            async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
                await gateway.post(make_call_log(2_000, seed=1, call_id="traced"), headers={"traceparent": PARENT})
                await far.wait_for(1)
                logs = far.call_logs
                names = {span["name"] for log in logs for span in log["telemetry_data"]["session_traces"]}
                assert {"calls", "commit"} <= names
                await gateway.hurry()
                gateway.environment["CALLSPOOL_TRACES_ENDPOINT"] = gateway.intake_url
                gateway.environment["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"] = "0.1"
                await gateway.start()
                assert any("own intake" in line for line in gateway.log.splitlines())
                await gateway.post(make_call_log(2_000, seed=2, call_id="again"))

                async def refused() -> bool:
                    return bool(gateway.events("spans_not_sent"))

                await until(refused, "its own intake refuses its spans")
                assert await gateway.metric('callspool_posts_total{result="loop_detected",route="otlp_traces"}') > 0

"""W3C Trace Context: a call log keeps the span that it was posted in, and each attempt to deliver it carries it on."""

from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from gateway.intake.routes import trace_context_of
from tests.system.gateway_process import GatewayProcess

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([], None),
        ([("traceparent", PARENT)], PARENT),
        ([("traceparent", PARENT), ("tracestate", "congo=t61rcWkgMzE"), ("tracestate", "rojo=00f067aa0ba902b7")],
         f"{PARENT} {STATE}"),
        ([("traceparent", PARENT), ("tracestate", "x" * 513)], PARENT),
        ([("traceparent", PARENT), ("tracestate", "a=\x7f")], PARENT),
        ([("traceparent", PARENT), ("traceparent", PARENT)], None),
        ([("tracestate", STATE)], None),
        ([("traceparent", PARENT.upper())], None),
        ([("traceparent", PARENT.replace("00-4b", "ff-4b"))], None),
        ([("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01")], None),
        ([("traceparent", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01")], None),
        ([("traceparent", f"{PARENT}-more")], None),
    ],
)  # fmt: skip
def test_what_is_malformed_is_left_out(headers: list[tuple[str, str]], kept: str | None) -> None:
    """As the standard asks: neither passed on nor a reason to refuse anything; what is well-formed stays as it came."""
    request = make_mocked_request("POST", "/v1/calls", headers=CIMultiDict(headers))
    assert (trace_context_of(request) if "traceparent" in request.headers else None) == kept


async def test_each_attempt_carries_the_senders_span(tmp_path: Path) -> None:
    """Core and detail, the repetition after a failure, and what a restart sends; what was posted without has none."""
    async with Endpoint(fault=Fault("status", status=500, times=1)) as endpoint:
        environment = {"CALLSPOOL_ENDPOINT_URL": endpoint.url}
        async with GatewayProcess(tmp_path / "gateway", environment) as gateway:
            body = make_call_log(6_000_000, seed=1, call_id="traced")
            await gateway.post(body, headers={"traceparent": PARENT, "tracestate": STATE})
            await endpoint.wait_for(2)
            endpoint.set_fault(Fault("status", status=500))
            await gateway.post(make_call_log(2_000, seed=2, call_id="later"), headers={"traceparent": PARENT})
            await endpoint.wait_until(lambda: len(endpoint.headers) == 4)
            await gateway.kill()
            endpoint.set_fault(Fault())
            await gateway.start()
            await gateway.post(make_call_log(2_000, seed=3, call_id="without"))
            await endpoint.wait_for(4)
            await gateway.delivered()
    seen = [(headers.get("traceparent"), headers.get("tracestate")) for headers in endpoint.headers]
    assert seen[:3] == [(PARENT, STATE)] * 3
    assert (PARENT, None) in seen[4:]
    assert seen.count((None, None)) == 1

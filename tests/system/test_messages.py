"""What a gateway writes while it runs: lines for machines, and never a secret."""

import json
from pathlib import Path

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

ENDPOINTS_TOKEN, INTAKE_TOKEN, AGENTS_TOKEN = "endpoint-key-31c4", "intake-key-90aa", "agents-key-e17d"

SECRET_IN_URL = "query-key-8c5b"
ORDER = ["starting", "running", "stopping", "drained", "stopped"]
"""What every log has."""


async def test_messages_are_json_and_without_secrets(tmp_path: Path) -> None:
    """Where no terminal is, each line is a JSON object; no token is in any, nor anywhere that an operator looks."""
    echo = json.dumps({"error": f"unknown project {ENDPOINTS_TOKEN}"})
    settings = {
        "CALLSPOOL_ENDPOINT_TOKEN": ENDPOINTS_TOKEN,
        "CALLSPOOL_INTAKE_TOKEN": INTAKE_TOKEN,
        "CALLSPOOL_LOG_LEVEL": "debug",
    }
    async with Endpoint(fault=Fault("status", 400, body=echo, times=1)) as endpoint:
        settings["CALLSPOOL_ENDPOINT_URL"] = f"{endpoint.url}?api_key={SECRET_IN_URL}"
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            body = make_call_log(2_000, seed=1, call_id="call-1", token=AGENTS_TOKEN)
            assert (await gateway.post(body, headers={"x-pype-token": AGENTS_TOKEN})).status == 401
            assert (await gateway.post(body, headers={"Authorization": f"Bearer {INTAKE_TOKEN}"})).status == 202
            await until(lambda: is_dead(gateway), "the refused delivery is a dead letter")
            shown = json.dumps([await gateway.status(), await gateway.trace("call-1")])
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    assert {"timestamp", "level", "event"} <= set.intersection(*(set(line) for line in lines))
    assert [line["event"] for line in lines if line["event"] in ORDER] == ORDER
    told = {line["event"]: line["call_id"] for line in lines if "call_id" in line}
    assert told == {"accepted": "call-1", "dead_letter": "call-1"}
    assert "HTTP 400: " in shown
    for secret in (ENDPOINTS_TOKEN, INTAKE_TOKEN, AGENTS_TOKEN, SECRET_IN_URL):
        assert secret not in gateway.log + shown
    assert [arrival.token for arrival in endpoint.arrivals] == [ENDPOINTS_TOKEN]


async def is_dead(gateway: GatewayProcess) -> bool:
    return bool((await gateway.destination())["dead"])

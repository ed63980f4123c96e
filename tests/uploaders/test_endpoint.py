"""The endpoint that the tests deliver to: it keeps the rules of the real one."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from bench.decoded import decode
from bench.endpoint import Endpoint, Fault

CORE = {"call_id": "c1", "summary_metrics": {}, "telemetry_summary": {}}
DETAIL = {"call_id": "c1", "update_type": "detailed_telemetry"}


async def post(endpoint: Endpoint, document: object, key: str = "k", **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(endpoint.url, json=document, headers={"Idempotency-Key": key, **headers}) as response,
    ):
        return response.status, await response.text()


async def test_a_detail_is_unknown_until_its_core_came() -> None:
    """The endpoint answers 404 "Call log not found" to a detail before its core, and takes it afterwards."""
    async with Endpoint() as endpoint:
        status, text = await post(endpoint, DETAIL, "d")
        assert (status, "Call log not found" in text) == (404, True)
        assert (await post(endpoint, CORE, "c"))[0] == 200
        assert (await post(endpoint, DETAIL, "d"))[0] == 200
        assert [(a.kind, a.status) for a in endpoint.arrivals] == [("detail", 404), ("core", 200), ("detail", 200)]


@pytest.mark.parametrize(
    ("fault", "body", "taken"),
    [
        (Fault("status", 200, '{"errorMessage": "Task timed out"}'), '{"errorMessage": "Task timed out"}', 0),
        (Fault("success_false"), '{"success": false, "error": "not stored"}', 0),
        (Fault("odd_success", body="ok", content_type="text/html"), "ok", 1),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
async def test_what_failed_with_200_did_not_arrive(fault: Fault, body: str, taken: int) -> None:
    """Only what the endpoint took counts as accepted, whatever status it told."""
    async with Endpoint(fault=fault) as endpoint:
        assert await post(endpoint, CORE) == (200, body)
        assert len(endpoint.arrivals) == 1
        assert len(endpoint.accepted) == len(endpoint.documents) == taken


async def test_a_key_with_two_documents_is_noted() -> None:
    """Sending two documents under one key is seen, sending one twice is not."""
    async with Endpoint() as endpoint:
        await post(endpoint, {"call_id": "a"})
        await post(endpoint, {"call_id": "a"})
        assert endpoint.conflicts == []
        await post(endpoint, {"call_id": "b"})
        assert endpoint.conflicts == ["k"]


async def test_a_wrong_token_is_refused() -> None:
    """With a token set, another one is answered with 401."""
    async with Endpoint(token="right") as endpoint:
        assert (await post(endpoint, CORE, **{"x-pype-token": "wrong"}))[0] == 401
        assert (await post(endpoint, CORE, **{"x-pype-token": "right"}))[0] == 200


@pytest.mark.parametrize(
    ("fault", "answers"),
    [
        (Fault("status", 503, times=2), [503, 503, 200]),
        (Fault("status", 429), [429, 429, 429]),
        (Fault("redirect", times=1), [302, 200, 200]),
        (Fault("status", 500, only="detail"), [200, 200, 200]),
    ],
)
async def test_faults_can_be_switched_while_it_runs(fault: Fault, answers: list[int]) -> None:
    """A fault set through the endpoint's own route lasts for its number of requests."""
    async with Endpoint() as endpoint, aiohttp.ClientSession() as session:
        async with session.post(endpoint.url.replace("/dev/send-call-log", "/_fault"), json=fault.__dict__) as done:
            assert done.status == 200
        for expected in answers:
            async with session.post(
                endpoint.url, json=CORE, headers={"Idempotency-Key": "k"}, allow_redirects=False
            ) as response:
                assert response.status == expected


async def test_a_retry_after_is_sent() -> None:
    """A fault's retry_after becomes the header."""
    async with (
        Endpoint(fault=Fault("status", 503, retry_after="7")) as endpoint,
        aiohttp.ClientSession() as session,
        session.post(endpoint.url, json=CORE) as response,
    ):
        assert response.headers["Retry-After"] == "7"


async def test_it_comes_back_on_its_port() -> None:
    """Stopping refuses connections, starting again listens on the same port: an outage with its end."""
    async with Endpoint() as endpoint:
        await endpoint.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(endpoint, CORE)
        await endpoint.start()
        assert (await post(endpoint, CORE))[0] == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"compressed": true}', b'{"compressed": true, "data": "!"}'])
def test_what_is_no_call_log_is_refused(body: bytes) -> None:
    """Anything but a JSON object, plain or in an envelope, is an error of the sender."""
    with pytest.raises(ValueError, match=r"not a call log|base64|gzip"):
        decode(body, "identity")


def test_an_unknown_encoding_is_refused() -> None:
    """A Content-Encoding it does not know is an error of the sender."""
    with pytest.raises(ValueError, match="brotli"):
        decode(b"{}", "brotli")


async def test_it_runs_as_a_process_and_keeps_a_journal(tmp_path: Path) -> None:
    """As a process it prints its URL first, journals arrivals, and ends on SIGTERM."""
    journal = tmp_path / "journal"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.endpoint", "--journal", str(journal), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=CORE, headers={"Idempotency-Key": "k"}) as response,
    ):
        assert response.status == 200
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    (line,) = journal.read_text().splitlines()
    assert (json.loads(line)["call_id"], json.loads(line)["kind"]) == ("c1", "core")

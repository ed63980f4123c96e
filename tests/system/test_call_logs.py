"""Call logs of every size, made and real, on their whole way: posted, stored, split, delivered, unchanged."""

from pathlib import Path

import pytest
import zstandard

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.system import spool_files
from tests.system.acknowledged import acknowledged, assert_arrived
from tests.system.gateway_process import GatewayProcess, ReservedPort

CALLS = Path(__file__).parents[3] / "shared" / "calls"
REAL = sorted(CALLS.glob("*.json.zst"))
SIZES = {2_000: "single", 500_000: "single", 5_000_000: "single", 15_000_000: "two_phase"}
TOKEN = "agents-key-5f2e"
EXACT = (
    '"start_time_ns": 1795300000123456789',
    '"end_time_ns": -9007199254740993',
    '"seventeen": 0.30000000000000004',
    '"largest": 1.7976931348623157e308',
    '"smallest": 5e-324',
    '"beyond": 123456789012345678901234567890',
    '"exponent": 1E+2',
    '"zero": -0.0',
    r'"text": "caf\u00e9 \/ \"quoted\" \ud83d\ude00 \n"',
    '"plain": "café 😀"',
    '"spaced": [ 1 , 2.50 , { "a" :null } ]',
)
"""Members that come back changed from whatever reads numbers as doubles, or writes strings in its own way."""


def a_gateway(folder: Path, url: str) -> GatewayProcess:
    return GatewayProcess(folder / "gateway", {"CALLSPOOL_ENDPOINT_URL": url, "CALLSPOOL_LOG_LEVEL": "debug"})


async def send_through(folder: Path, bodies: list[bytes]) -> list[str]:
    """Post all of them and compare what arrives; returns how each was to be sent."""
    async with Endpoint() as endpoint, a_gateway(folder, endpoint.url) as gateway:
        replies = [await gateway.post(body, "/dev/send-call-log") for body in bodies]
        posted = [acknowledged(body, reply) for body, reply in zip(bodies, replies, strict=True)]
        await endpoint.wait_for(sum(len(one.keys) for one in posted), deadline=30)
        await gateway.delivered()
    for one in posted:
        assert_arrived(endpoint, one)
    assert {arrival.status for arrival in endpoint.arrivals} == {200}
    assert all(arrival.raw_bytes <= 500_000 for arrival in endpoint.arrivals if arrival.kind == "core")
    return [reply.json["upload_method"] for reply in replies]


async def test_made_call_logs_of_all_sizes_arrive(tmp_path: Path) -> None:
    """From 2 KB to 15 MB, small ones whole and large ones in two phases, none above what the endpoint takes."""
    bodies = [make_call_log(size, seed=size, call_id=f"call-{size}") for size in SIZES]
    assert await send_through(tmp_path, bodies) == list(SIZES.values())


@pytest.mark.skipif(not REAL, reason=f"no real call logs in {CALLS}")
async def test_real_call_logs_arrive(tmp_path: Path) -> None:
    """What a real agent wrote arrives as it was written; the longest call in two phases."""
    bodies = [zstandard.ZstdDecompressor().decompressobj().decompress(file.read_bytes()) for file in REAL]
    assert (await send_through(tmp_path, bodies)).count("two_phase") == 1


async def test_values_pass_unchanged(tmp_path: Path) -> None:
    """Numbers that no double holds, and strings however escaped, arrive with the bytes posted, whole and split."""
    bodies = {two_phase: exact_body(6_000_000 * two_phase) for two_phase in (False, True)}
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint.url) as gateway:
        posted = [acknowledged(body, await gateway.post(body)) for body in bodies.values()]
        await endpoint.wait_for(3)
    assert [one.two_phase for one in posted] == list(bodies)
    for one in posted:
        assert_arrived(endpoint, one)
        arrived = b"".join(endpoint.documents[key] for key in one.keys)
        assert [arrived.count(member.encode()) for member in EXACT] == [4] * len(EXACT)


def exact_body(padding: int) -> bytes:
    """A call log with the exact members at its top, in a field that stays in the core, and in those that do not."""
    members = ", ".join(EXACT)
    return (
        f'{{"call_id": "call-{padding}", "wcall_event": "call_ended", {members}, "metadata": {{{members}}}, '
        f'"telemetry_data": {{"session_traces": [{{{members}}}], "padding": "{"x" * padding}"}}, '
        f'"transcript_with_metrics": [{{{members}}}]}}'
    ).encode()


async def test_the_agents_token_is_in_the_header_and_nowhere_else(tmp_path: Path) -> None:
    """It waits in its own table alone, goes out in the header, and is gone from every file when all is delivered."""
    port = ReservedPort()
    endpoint = Endpoint(token=TOKEN, port=port.number)
    bodies = [make_call_log(size, seed=size, call_id=f"call-{size}", token=TOKEN) for size in (2_000, 8_000_000)]
    async with a_gateway(tmp_path, endpoint.url) as gateway:
        for body in bodies:
            assert (await gateway.post(body, "/dev/send-call-log", {"x-pype-token": TOKEN})).status == 202
        await gateway.kill()
        assert tokens_among_payloads(gateway.spool, tmp_path / "copy") == 0
        assert files_with_the_token(gateway.spool), "the search finds nothing, even what is there"
        async with endpoint:
            await gateway.start()
            await endpoint.wait_for(3)
            await gateway.delivered()
            assert await gateway.hurry() == 0
        assert TOKEN not in gateway.log
        assert "debug" in gateway.log
    port.close()
    assert not files_with_the_token(gateway.spool)
    assert {arrival.token for arrival in endpoint.arrivals} == {TOKEN}
    assert all(TOKEN.encode() not in document for document in endpoint.documents.values())
    assert all("token" not in call_log for call_log in endpoint.call_logs)


def files_with_the_token(spool: Path) -> list[Path]:
    return [file for file in spool.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]


def tokens_among_payloads(spool: Path, copy: Path) -> int:
    """How often the token stands in stored chunks and in any table but its own."""
    with spool_files.copy_of(spool, copy) as database:
        assert database.execute("SELECT value FROM tokens").fetchall() == [(TOKEN,)]
        texts = [line for line in database.iterdump() if not line.startswith('INSERT INTO "tokens"')]
        return sum(TOKEN.encode() in frame for frame in spool_files.frames(database)) + sum(
            TOKEN in text for text in texts
        )

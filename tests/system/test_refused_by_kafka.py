"""A sidecar that Kafka does not let in: its agents notice nothing, its operator is told why, and nothing is lost."""

import json
import uuid
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.kafka_servers import create_topics
from tests.kafka.clusters import PARTITIONS, Cluster
from tests.kafka.gate import Door, Gate
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import post
from tests.system.waiting import until


@pytest.mark.slow
async def test_call_logs_wait_for_a_password(tmp_path: Path) -> None:
    """Posts are answered 202 while the password is wrong; the status names the cause and the settings; all of them
    are delivered once the broker knows the password and the operator resumes, each once."""
    with Gate(Door()) as gate:
        cluster = Cluster(gate.brokers)
        create_topics(gate.brokers, [*cluster.topics.read, cluster.topics.dead], PARTITIONS)
        gate.door = Door(users={"sidecar": "changed"})
        gate.turn_out()
        access = (
            'sasl = "scram-sha-256"\nusername = "sidecar"\npassword = "hush"\nretry = {initial = "0.1s", max = "1s"}\n'
        )
        settings = cluster.table.replace("topics =", f"{access}topics =")
        async with GatewayProcess(tmp_path / "sidecar", settings=settings) as sidecar:
            calls = [f"call-{uuid.uuid4().hex[:8]}" for _ in range(20)]
            for number, call in enumerate(calls):
                await post(sidecar, make_call_log(2_000, seed=number, call_id=call))

            async def explained() -> bool:
                return "check `sasl`, `username` and `password`" in json.dumps(await sidecar.status())

            await until(explained, "the status says why")
            assert "hush" not in sidecar.log
            gate.door = Door(users={"sidecar": "hush"})
            await sidecar.command("resume", "kafka", *sidecar.admin)
            await sidecar.delivered(deadline=60)
        gate.door = Door()
        assert sorted(message.key for message in cluster.messages()) == sorted(calls)

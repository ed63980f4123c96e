"""What the system tests of S3 share: the servers and buckets of tests/s3, and gateways that deliver to them."""

import json
from pathlib import Path
from typing import Any

from bench.calllogs import make_call_log
from bench.s3_server import Server
from tests.s3.stored_objects import objects
from tests.system.acknowledged import Acknowledged, acknowledged
from tests.system.gateway_process import GatewayProcess


def a_gateway(folder: Path, server: Server, bucket: str, **variables: str) -> GatewayProcess:
    """It delivers to this bucket; credentials come from the environment of the test."""
    environment = {
        "CALLSPOOL_S3_BUCKET": bucket,
        "CALLSPOOL_S3_ENDPOINT_URL": server.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        **variables,
    }
    return GatewayProcess(folder / "gateway", environment)


def configured(folder: Path, text: str, **variables: str) -> GatewayProcess:
    """It is told everything by a file."""
    return GatewayProcess(folder / "gateway", {"AWS_DEFAULT_REGION": "us-east-1", **variables}, settings=text)


async def post(
    gateway: GatewayProcess, call_id: str, size: int, token: str = "agents-key"
) -> tuple[bytes, Acknowledged]:
    """Post a made call log; returns it with what is needed to know it again."""
    body = make_call_log(size, seed=size, call_id=call_id)
    return body, acknowledged(body, await gateway.post(body, headers={"x-pype-token": token}))


async def documents(server: Server, bucket: str) -> dict[str, dict[str, bytes]]:
    """What the objects of a bucket hold: by call id, and then by how their keys end."""
    found: dict[str, dict[str, bytes]] = {}
    for one in await objects(server, bucket):
        _, _, call_id, name = one.key.split("/")
        found.setdefault(call_id, {})["." + name.partition(".")[2]] = one.document
    return found


def members(document: bytes) -> dict[str, Any]:
    """The members of a document."""
    value = json.loads(document)
    assert isinstance(value, dict)
    return value

"""The Compose files: by Compose's own schema, and what they name. tests/system runs their services' settings."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.deploy.compose_files import FOLDER, services
from tests.project.repository import text

FILES = ("sidecar.yml", "everything.yml")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_of_compose(name: str) -> None:
    """Each key is known."""
    pytest.importorskip("check_jsonschema", reason="make check-deploy installs check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FOLDER / name)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("name", FILES)
def test_what_a_service_names_is_there(name: str) -> None:
    """Files that are mounted, services that are waited for, networks and volumes."""
    document = yaml.safe_load(text(f"deploy/compose/{name}"))
    for service in document["services"].values():
        assert set(service.get("depends_on", ())) <= document["services"].keys()
        assert set(service["networks"]) <= document["networks"].keys()
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in document["volumes"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing is reachable from other machines"


def test_callspool_can_do_little_there() -> None:
    """A read-only image, no capability, limited memory; not root, by the image."""
    for name in FILES:
        for service in services(name).values():
            if service.get("image") == "callspool:dev" and "entrypoint" not in service:
                assert service["read_only"]
                assert service["cap_drop"] == ["ALL"]
                assert service["security_opt"] == ["no-new-privileges:true"]
                assert service["mem_limit"]


def test_the_bucket_knows_the_keys_of_its_users() -> None:
    """SeaweedFS lets in whom the gateways say they are."""
    (identity,) = json.loads(text("deploy/compose/s3.json"))["identities"]
    found = services("everything.yml")["sidecar"]["environment"]
    assert identity["credentials"] == [
        {"accessKey": found["AWS_ACCESS_KEY_ID"], "secretKey": found["AWS_SECRET_ACCESS_KEY"]}
    ]

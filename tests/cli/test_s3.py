"""Tests of the commands for buckets, against a real S3 server."""

import json
from pathlib import Path

import click
import pytest

from bench.s3_server import Server
from gateway.cli.s3 import s3
from tests.cli.conftest import Cli

TWO = """
    [[destinations]]
    name = "one"
    type = "s3"
    bucket = "bucket-one"
    [[destinations]]
    name = "two"
    type = "s3"
    bucket = "bucket-two"
    prefix = ""
"""


def variables(server: Server, bucket: str, **more: str) -> dict[str, str]:
    return {
        "CALLSPOOL_S3_BUCKET": bucket,
        "CALLSPOOL_S3_ENDPOINT_URL": server.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        **more,
    }


@pytest.fixture
def two(tmp_path: Path) -> str:
    file = tmp_path / "c.toml"
    file.write_text(TWO)
    return str(file)


def test_check_tells_what_works(cli: Cli, weed: Server, bucket: str) -> None:
    """Where everything works each step says so, and the exit code is 0."""
    result = cli("s3", "check", env=variables(weed, bucket))
    assert result.exit_code == 0, result.output
    assert f"s3: bucket {bucket}" in result.stdout
    assert result.stdout.count("works") == 5


def test_check_names_the_missing_permission(cli: Cli, weed: Server, bucket: str) -> None:
    """Credentials that may only read fail with what to allow, and exit code 1."""
    reader = {"AWS_ACCESS_KEY_ID": "reader-key", "AWS_SECRET_ACCESS_KEY": "reader-secret"}
    result = cli("s3", "check", env=variables(weed, bucket, **reader))
    assert result.exit_code == 1
    assert "Missing permissions:" in result.stderr
    assert "s3:PutObject" in result.stderr
    assert "reader-secret" not in result.output


def test_check_of_a_bucket_that_is_not_there_says_so(cli: Cli, weed: Server, credentials: None) -> None:
    """The server's own word is told."""
    result = cli("s3", "check", env=variables(weed, "not-there"))
    assert (result.exit_code, "NoSuchBucket" in result.stdout) == (1, True)


def test_setup_shows_what_it_would_do_and_does_nothing(cli: Cli, two: str) -> None:
    """Without --apply no server is asked: the plan and the least policy are shown as they would be sent."""
    result = cli("s3", "setup", "--config", two, "--destination", "one", "--expire-days", "9")
    assert result.exit_code == 0, result.output
    for said in ("callspool/ after 9 days", "PutBucketEncryption", "PutPublicAccessBlock", '"s3:PutObject"'):
        assert said in result.stdout
    policy = json.loads(result.stdout.rpartition("needs\n")[2])
    assert policy["Statement"][0]["Resource"] == "arn:aws:s3:::bucket-one/callspool/*"
    assert "Nothing was changed" in result.stderr


def test_setup_applies_what_it_shows(cli: Cli, weed: Server, bucket: str) -> None:
    """With --apply each change is made and told; one that this server does not know is passed over, and no failure."""
    result = cli("s3", "setup", "--apply", env=variables(weed, bucket))
    told = [line.split() for line in result.stdout.splitlines()]
    assert ["expiry", "works"] in told
    assert ["encryption", "works"] in told
    assert ["public", "access", "skipped"] in [line[:3] for line in told]
    assert (result.exit_code, "does not know it" in result.stdout) == (0, True)


def test_a_whole_bucket_does_not_expire_by_accident(cli: Cli, two: str) -> None:
    """Without a prefix the rule is about everything in the bucket, so that it has to be said twice."""
    result = cli("s3", "setup", "--apply", "--config", two, "--destination", "two")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "everything in the bucket bucket-two would expire" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--destination", "three")])
def test_among_several_buckets_one_is_to_be_named(cli: Cli, two: str, arguments: tuple[str, ...]) -> None:
    """Nothing is guessed, and the names are told."""
    result = cli("s3", "check", "--config", two, *arguments)
    assert (result.exit_code, "one, two" in result.stderr) == (2, True)


def test_a_mistyped_bucket_is_named(cli: Cli) -> None:
    """Also where there is one alone: it is not said that there are several."""
    result = cli("s3", "check", "--destination", "typo", env={"CALLSPOOL_S3_BUCKET": "bucket-one"})
    assert (result.exit_code, "There is no s3 destination typo." in result.stderr) == (2, True)
    assert "there are: s3" in result.stderr


def test_without_a_bucket_the_way_out_is_named(cli: Cli) -> None:
    """A configuration without a bucket says how to get one."""
    result = cli("s3", "check", "--local")
    assert (result.exit_code, "CALLSPOOL_S3_BUCKET" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", sorted(s3.commands))
def test_every_option_says_what_it_is_for(cli: Cli, name: str) -> None:
    """No command and no option is without a sentence of help."""
    found = s3.commands[name]
    assert found.help
    assert all(parameter.help for parameter in found.params if isinstance(parameter, click.Option))
    assert cli("s3", name, "--help").exit_code == 0

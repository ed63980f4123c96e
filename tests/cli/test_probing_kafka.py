"""`check-config --probe` with Kafka: what a cluster lacks is named before a delivery fails by it."""

import os
from dataclasses import replace

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.diagnostics.kafka import TopicState, findings
from tests.kafka.clusters import Cluster

NOBODY = "127.0.0.1:9"
"""An address where no gateway runs, as one may on this machine where the doctor asks by default."""
SOUND = TopicState(
    "call_ended", True, None, 3,
    {"max.message.bytes": 1_048_588, "retention.ms": 604_800_000, "min.insync.replicas": 2}, may_write=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "said", "is_problem"),
    [
        (replace(SOUND, exists=False), "there is no topic call_ended", True),
        (replace(SOUND, error="Broker: Topic authorization failed"), "authorization failed", True),
        (replace(SOUND, may_write=False), "may not write it", True),
        (replace(SOUND, settings={"max.message.bytes": 500_000}), "takes 500000 bytes a message", True),
        (replace(SOUND, settings={"retention.ms": 86_400_000}), "keeps messages for 24 h", False),
        (replace(SOUND, replicas=1), "one replica", False),
        (replace(SOUND, settings={"min.insync.replicas": 1}), "min.insync.replicas is 1", False),
    ],
)
def test_what_is_wrong_with_a_topic_is_said(topic: TopicState, said: str, is_problem: bool) -> None:
    """One sentence each, and whether deliveries would fail by it."""
    (found,) = findings([topic], 900_000)
    assert said in found.text
    assert found.is_problem is is_problem


@pytest.mark.parametrize("topic", [SOUND, replace(SOUND, settings={}, may_write=None)])
def test_what_a_cluster_does_not_say_is_no_problem(topic: TopicState) -> None:
    """Settings and rights may be hidden from this user."""
    assert not list(findings([topic], 900_000))


def probed(monkeypatch: pytest.MonkeyPatch, brokers: str, command: str = "check-config") -> tuple[int, str]:
    for name in [name for name in os.environ if name.startswith("CALLSPOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CALLSPOOL_KAFKA_BROKERS", brokers)
    monkeypatch.setenv("CALLSPOOL_ADMIN_LISTEN", NOBODY)
    result = CliRunner().invoke(main, [command, "--probe"])
    return result.exit_code, result.output


def test_topics_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
    """Nothing is created by asking: each of the usual topics is missing here, and the command fails."""
    for _ in range(2):
        code, output = probed(monkeypatch, cluster.brokers)
        assert code == 1
        assert "there is no topic calls_dead" in output


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the library's own, in one line."""
    monkeypatch.setattr("gateway.diagnostics.kafka.SECONDS", 0.2)
    code, output = probed(monkeypatch, "127.0.0.1:1")
    assert code == 1
    assert "kafka: " in output


def test_the_doctor_does_not_call_it_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a probe found is part of the verdict, and nothing that it asked is said not to have been asked."""
    monkeypatch.setattr("gateway.diagnostics.kafka.SECONDS", 0.2)
    code, output = probed(monkeypatch, "127.0.0.1:1", "doctor")
    assert code == 1
    assert "A destination does not take what it is sent" in output
    assert "All is well" not in output
    assert "not asked" not in output.replace("not asked: No gateway", "")

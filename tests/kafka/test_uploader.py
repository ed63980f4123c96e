"""Deliveries become messages: on a broker that keeps them, and on a cluster that fails at command."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from bench.kafka_servers import MockCluster
from spool.records import Form, Fragment
from tests.kafka.clusters import Cluster
from tests.uploaders.deliveries import Payloads, a_delivery, a_payload, a_record, large_fragments
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.document.encoding import Reduction
from uploaders.kafka.options import Compression, KafkaOptions, Sasl
from uploaders.kafka.producer import outcome_of, producer_settings
from uploaders.kafka.uploader import KafkaUploader

PRODUCE = 0
"""The API key of the request that writes."""


@pytest.fixture
def payloads() -> Payloads:
    return Payloads()


@pytest.fixture
async def uploader(cluster: Cluster, payloads: Payloads) -> AsyncIterator[KafkaUploader]:
    made = KafkaUploader(cluster.options, payloads)
    yield made
    await made.close()


async def attempted(cluster: Cluster, *, delivery_timeout: float = 10.0, times: int = 1) -> list[Outcome]:
    """What becomes of a delivery, one attempt after the other."""
    payloads = Payloads()
    uploader = KafkaUploader(replace(cluster.options, delivery_timeout=delivery_timeout), payloads)
    try:
        return [await uploader.deliver(a_delivery(a_record(payloads))) for _ in range(times)]
    finally:
        await uploader.close()


async def test_a_batch_is_written_with_keys_and_headers(
    uploader: KafkaUploader, payloads: Payloads, cluster: Cluster
) -> None:
    """Each delivery is one message: key is the call id, the value the document as it came, the headers say the rest."""
    events = {1: "call_started", 2: "call_ended", 3: "recording_ready"}
    body = b'{"call_id": "call-%d", "n": 1e400}'
    records = [
        a_record(payloads, number, event=event, fragments={Fragment.BODY: body % number})
        for number, event in events.items()
    ]
    assert await uploader.deliver_many([a_delivery(record) for record in records]) == [Delivered()] * 3
    written = {message.key: message for message in cluster.messages()}
    topics = cluster.topics
    assert {key: message.topic for key, message in written.items()} == {
        "call-1": topics.started, "call-2": topics.ended, "call-3": topics.details,
    }  # fmt: skip
    assert written["call-2"].value == b'{"call_id": "call-2", "n": 1e400}'
    assert written["call-2"].headers["idempotency-key"] == b"spool1-2-whole"


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("sasl", Sasl)
def test_the_client_takes_what_the_settings_offer(compression: Compression, sasl: Sasl) -> None:
    """No choice of a setting is one that the library does not know."""
    secured = KafkaOptions(("127.0.0.1:1",), compression=compression, sasl=sasl, username="u", password="p", tls=True)
    Producer({**producer_settings(secured), "log_level": 0})


@pytest.mark.parametrize("setting", ["compression.type", "sasl.mechanism"])
def test_the_client_refuses_what_it_does_not_know(setting: str) -> None:
    """A test of the test: a choice that the library does not know is an error when the client is made."""
    secured = KafkaOptions(("127.0.0.1:1",), sasl=Sasl.PLAIN, username="u", password="p", tls=True)
    with pytest.raises(KafkaException, match="unheard-of"):
        Producer({**producer_settings(secured), "log_level": 0, setting: "unheard-of"})


async def test_what_is_too_large_is_never_written(cluster: Cluster) -> None:
    """Its size decides before anything is sent: the core goes, the detail is refused as too large."""
    payloads, delivery = a_payload(2_000)
    uploader = KafkaUploader(replace(cluster.options, max_message_bytes=1_000), payloads)
    core, detail = delivery(Form.CORE), delivery(Form.DETAIL)
    outcomes = await uploader.deliver_many([core, detail])
    await uploader.close()
    assert outcomes[0] == Delivered()
    assert isinstance(outcomes[1], Refused)
    assert outcomes[1].too_large
    assert "max_message_bytes = 1000" in outcomes[1].reason
    assert len(cluster.messages()) == 1


async def test_a_detail_can_be_reduced_to_fit(cluster: Cluster, tmp_path: Path) -> None:
    """What a reduction leaves of a detail is a message; without one there is nothing to make it with."""
    payloads = Payloads()
    record = a_record(payloads, fragments=large_fragments(b'"telemetry_data": "' + b"s" * 5_000 + b'"'))
    small = replace(cluster.options, max_message_bytes=1_000)
    reducing = KafkaUploader(small, payloads, reduction=Reduction(lambda _: [b'{"call_id": "call-1"}'], tmp_path))
    delivery = a_delivery(record, Form.REDUCED)
    assert await reducing.deliver(delivery) == Delivered()
    await reducing.close()
    assert [message.value for message in cluster.messages()] == [b'{"call_id": "call-1"}']
    without = KafkaUploader(small, payloads)
    assert isinstance(await without.deliver(delivery), Refused)


@pytest.mark.parametrize(
    ("error", "scope", "too_large"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, Scope.RECORD, True),
        (KafkaError.INVALID_RECORD, Scope.RECORD, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Scope.DESTINATION, False),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, Scope.DESTINATION, False),
    ],
)
async def test_whose_fault_an_error_is(
    mock: MockCluster, failing: Cluster, error: int, scope: Scope, too_large: bool
) -> None:
    """A record at fault is set aside; a missing right pauses the destination, and its probe works afterwards."""
    mock.fail(PRODUCE, error)
    refused, after = await attempted(failing, times=2)
    assert isinstance(refused, Refused)
    assert (refused.scope, refused.too_large) == (scope, too_large)
    assert failing.topics.ended in refused.reason
    assert after == Delivered()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (KafkaError._UNKNOWN_TOPIC, Refused, "create the topic"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Refused, "create the topic"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, Refused, "check `username` and `password`"),
        (KafkaError._MSG_TIMED_OUT, RetryLater, "timed out"),
        (KafkaError.NOT_ENOUGH_REPLICAS, RetryLater, "in-sync replicas"),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, RetryLater, "out of order"),
    ],
)
def test_an_error_of_the_cluster_is_no_fault_of_a_record(
    error: int, kind: type[Refused | RetryLater], said: str
) -> None:
    """Nothing becomes a dead letter because a topic is missing or a broker is slow; the reason says what to do."""
    outcome = outcome_of(KafkaError(error), "call_ended")
    assert isinstance(outcome, kind)
    assert outcome.scope is Scope.DESTINATION
    assert said in outcome.reason


async def test_a_new_leader_is_found(mock: MockCluster, failing: Cluster) -> None:
    """A broker that no longer leads a partition is a moment's delay inside of one attempt."""
    mock.fail(PRODUCE, *[KafkaError.NOT_LEADER_FOR_PARTITION] * 2)
    assert await attempted(failing) == [Delivered()]


@pytest.mark.slow
async def test_a_broker_that_is_down_is_waited_for(mock: MockCluster, failing: Cluster) -> None:
    """An attempt ends at its deadline as a matter of the destination; when the broker is back, the next one works."""
    mock.down()
    try:
        (outcome,) = await attempted(failing, delivery_timeout=1.0)
    finally:
        mock.up()
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert await attempted(failing) == [Delivered()]

"""Kafka in the configuration: the variables that add it, what it may say, and which bucket notifies it."""

from pathlib import Path

import pytest

from config.destinations import KafkaDestination, S3Destination
from config.loader import effective_settings, load
from tests.config.conftest import WriteFile, problems

BROKERS = "CALLSPOOL_KAFKA_BROKERS"


def configured(write_file: WriteFile, text: str) -> Path:
    return write_file(f'[[destinations]]\nname = "k"\ntype = "kafka"\n{text}\n')


def test_the_variables_add_a_cluster() -> None:
    """Brokers are separated by commas; the password is never shown."""
    loaded = load(
        None,
        {
            BROKERS: "a:9092, b:9093,[::1]",
            "CALLSPOOL_KAFKA_SASL": "SCRAM-SHA-512",
            "CALLSPOOL_KAFKA_USERNAME": "sidecar",
            "CALLSPOOL_KAFKA_PASSWORD": "hush",
            "CALLSPOOL_KAFKA_TLS": "true",
        },
    )
    (found,) = loaded.settings.destinations
    assert isinstance(found, KafkaDestination)
    assert (found.name, found.brokers, found.tls) == ("kafka", ("a:9092", "b:9093", "[::1]"), True)
    assert (found.topics.started, found.max_message_bytes) == ("call_started", 900_000)
    shown = [found.target, repr(found), *(str(each.value) for each in effective_settings(loaded))]
    assert not [text for text in shown if "hush" in text]


def test_a_bucket_notifies_the_cluster_by_itself() -> None:
    """Two variables are enough for claim checks."""
    destinations = load(None, {BROKERS: "127.0.0.1", "CALLSPOOL_S3_BUCKET": "calls"}).settings.destinations
    (bucket,) = [each for each in destinations if isinstance(each, S3Destination)]
    assert bucket.notify == "kafka"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('brokers = "kafka://a:9092"', "brokers"),
        ('brokers = ""', "brokers"),
        ('brokers = ["a:70000"]', "brokers"),
        ('brokers = "a"\ntopics.started = "call_ended"', "topics.dead"),
        ('brokers = "a"\ntopics.ended = "no blanks"', "topics.ended"),
        ('brokers = "a"\nsasl = "plain"', "password"),
        ('brokers = "a"\nusername = "u"\npassword = "p"', "password"),
        ('brokers = "a"\nwhen_too_large = ["s3"]', "when_too_large"),
        ('brokers = "a"\ncompression = "lzma"', "compression"),
    ],
)
def test_a_mistake_is_named(write_file: WriteFile, text: str, key: str) -> None:
    """Each stands with its key."""
    assert f"destinations[k].{key}" in problems(configured(write_file, text))


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ('brokers = "127.0.0.1:9092"', ""),
        ('brokers = "kafka:9092"\ntls = true', ""),
        ('brokers = "kafka:9092"', "tls is false: call logs cross"),
        ('brokers = "kafka"\nsasl = "plain"\nusername = "u"\npassword = "p"', "call logs and the password cross"),
        ('brokers = "localhost"\nmax_message_bytes = "100KB"', "a core may be too large"),
    ],
)
def test_what_is_doubtful_is_said(write_file: WriteFile, text: str, warned: str) -> None:
    """What anyone on the way can read, and cores that no message holds."""
    found = load(configured(write_file, text), {}).warnings
    assert (warned in " ".join(found)) if warned else not found

"""How to reach a Kafka cluster, and what is written to which of its topics. Pure: the settings import these words."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

MAX_MESSAGE_BYTES = 900_000
"""Brokers take batches of 1,048,588 bytes by default, and clients messages of 1,000,000: headers need room, too."""


class Compression(StrEnum):
    """How batches of messages are compressed."""

    ZSTD = "zstd"
    LZ4 = "lz4"
    SNAPPY = "snappy"
    GZIP = "gzip"
    NONE = "none"


class Sasl(StrEnum):
    """How a client authenticates itself."""

    NONE = "none"
    """Not at all, or by its TLS certificate."""
    PLAIN = "plain"
    """By a password that the broker sees; only with TLS."""
    SCRAM_SHA_256 = "scram-sha-256"
    """By proof that it knows a password."""
    SCRAM_SHA_512 = "scram-sha-512"
    """The same with a longer hash."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of the topics."""

    started: str = "call_started"
    ended: str = "call_ended"
    """Ends, and call logs without an event."""
    details: str = "call_details"
    """Details, updates, and notices of objects in a bucket."""
    dead: str = "calls_dead"
    """What a worker could not store."""

    @property
    def read(self) -> tuple[str, ...]:
        """What a worker reads."""
        return (self.started, self.ended, self.details)


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """One cluster, as a client reaches it."""

    brokers: tuple[str, ...]
    """Some of them, as `host:port`; the client learns of the others."""
    topics: Topics = field(default_factory=Topics)
    max_message_bytes: int = MAX_MESSAGE_BYTES
    """The longest value of a message."""
    compression: Compression = Compression.ZSTD
    delivery_timeout: float = 30.0
    """Seconds after which a message that no broker has confirmed counts as failed."""
    sasl: Sasl = Sasl.NONE
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None
    """PEM certificates of authorities to trust instead of the system's."""
    certificate_file: Path | None = None
    """The client's own PEM certificate, where brokers ask for one."""
    key_file: Path | None = None
    """The key of that certificate."""


def connection_settings(options: KafkaOptions) -> dict[str, str | int]:
    """What producers, consumers and admin clients have in common, in librdkafka's words."""
    secured = {(False, False): "plaintext", (True, False): "ssl", (False, True): "sasl_plaintext"}
    settings: dict[str, str | int] = {
        "bootstrap.servers": ",".join(options.brokers),
        "client.id": "callspool",
        "security.protocol": secured.get((options.tls, options.sasl is not Sasl.NONE), "sasl_ssl"),
        # A broker that is down is tried again soon, and logged by the dispatcher, not by the library.
        "reconnect.backoff.max.ms": 5_000,
        "socket.connection.setup.timeout.ms": 10_000,
        "log_level": 2,
    }
    if options.sasl is not Sasl.NONE:
        settings |= {
            "sasl.mechanism": options.sasl.value.upper(),
            "sasl.username": options.username or "",
            "sasl.password": options.password or "",
        }
    files = {
        "ssl.ca.location": options.ca_file,
        "ssl.certificate.location": options.certificate_file,
        "ssl.key.location": options.key_file,
    }
    return settings | {name: str(path) for name, path in files.items() if path is not None}

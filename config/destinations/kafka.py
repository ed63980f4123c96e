"""The settings of a Kafka cluster, which sidecars write to and `callspool work` reads from."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, ValidationInfo, field_validator

from config.destinations.base import REDUCTIONS, DestinationTable, Fallbacks, LaneConcurrency
from config.types import Choice, Duration, OptionalName, Shown, Size, Table, format_path
from config.values import is_loopback
from uploaders.kafka.options import MAX_MESSAGE_BYTES, Compression, Sasl, Topics

_BROKER = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_USUAL = Topics()


def _brokers(value: object) -> tuple[str, ...]:
    """Addresses from a list, or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    brokers = tuple(str(each).strip() for each in given) if isinstance(given, list | tuple) else ()
    if not brokers or not all(map(_is_broker, brokers)):
        raise ValueError("should be a list of `host:port`, separated by commas in a variable, without kafka:// before")
    return brokers


def _is_broker(address: str) -> bool:
    found = _BROKER.fullmatch(address)
    return found is not None and 0 < int(found["port"] or 9092) < 65536


def _topic(name: str) -> str:
    if not _TOPIC.fullmatch(name) or name in {".", ".."}:
        raise ValueError("should be the name of a topic: 1 to 249 letters, digits, `.`, `_` and `-`")
    return name


Brokers = Annotated[tuple[str, ...], BeforeValidator(_brokers), Shown(",".join)]
TopicName = Annotated[str, AfterValidator(_topic)]


class TopicSettings(Table):
    """The names of the topics, which must exist."""

    started: TopicName = _USUAL.started
    """The topic of `call_started`."""
    ended: TopicName = _USUAL.ended
    """The topic of `call_ended`, and of call logs without an event."""
    details: TopicName = _USUAL.details
    """The topic of details, updates, and notices of objects in a bucket."""
    dead: TopicName = _USUAL.dead
    """The dead letter topic: `callspool work` writes messages to it that no store accepts."""

    @field_validator("dead")
    @classmethod
    def _topics_differ(cls, dead: str, info: ValidationInfo) -> str:
        names = [dead, *(str(name) for name in info.data.values())]
        if len(set(names)) < len(names):
            raise ValueError("should differ from the other topics, and they from each other")
        return dead


class KafkaDestination(DestinationTable):
    """A Kafka cluster."""

    type: Literal["kafka"]
    """`kafka`: topics of a Kafka cluster; needs `pip install callspool[kafka]`."""
    brokers: Brokers
    """Some brokers of the cluster, as `host:port`."""
    max_message_bytes: Size = MAX_MESSAGE_BYTES
    """The largest message; of a larger call log, the core goes here, and the detail to the bucket that notifies this
    destination, else as `when_too_large` says."""
    when_too_large: Fallbacks = ()
    """Without a bucket: a detail that is too large is reduced to `critical` or `top_n`; by default it becomes a dead
    letter."""
    top_n: Annotated[int, Field(ge=1)] = 100
    """For `top_n`: how many of the slowest spans to keep."""
    compression: Annotated[Compression, Choice] = Compression.ZSTD
    """How batches are compressed: `zstd`, `lz4`, `snappy`, `gzip` or `none`."""
    delivery_timeout: Duration = 30.0
    """How long a message may take to reach every in-sync replica before the attempt fails."""
    sasl: Annotated[Sasl, Choice] = Sasl.NONE
    """How to authenticate: `none`, `plain`, `scram-sha-256` or `scram-sha-512`."""
    username: OptionalName = None
    """With `sasl`: the user name."""
    password: SecretStr | None = None
    """With `sasl`: the password."""
    tls: bool = False
    """Whether connections are encrypted."""
    ca_file: Annotated[FilePath | None, Shown(format_path)] = None
    """With `tls`: a PEM file of certificate authorities to trust instead of the system's."""
    certificate_file: Annotated[FilePath | None, Shown(format_path)] = None
    """With `tls`: a PEM file with the client's own certificate."""
    key_file: Annotated[FilePath | None, Shown(format_path)] = None
    """With `certificate_file`: a PEM file with its key."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=4, detail=2))
    """Batches of messages in flight at once, for each lane."""
    topics: TopicSettings = Field(default_factory=TopicSettings)
    """The names of the topics."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return f"kafka://{','.join(self.brokers)}"

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:
        """See `DestinationTable`."""
        yield from super().warnings(core_max_bytes=core_max_bytes)
        if self.max_message_bytes < core_max_bytes:
            yield (
                f"destinations[{self.name}].max_message_bytes is less than split.core_max_bytes: "
                "a core may be too large to be delivered"
            )
        if not self.tls and not all(map(_on_this_machine, self.brokers)):
            secret = "call logs" if self.sasl is Sasl.NONE else "call logs and the password"
            yield f"destinations[{self.name}].tls is false: {secret} cross the network readable by anyone on the way"

    @field_validator("when_too_large")
    @classmethod
    def _only_reductions(cls, ways: tuple[object, ...]) -> tuple[object, ...]:
        if not set(ways) <= REDUCTIONS:
            raise ValueError("should be `critical` or `top_n`: a bucket takes details by its own `notify`")
        return ways

    @field_validator("password")
    @classmethod
    def _credentials_are_whole(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        authenticates = info.data.get("sasl", Sasl.NONE) is not Sasl.NONE
        if authenticates and not (password and info.data.get("username")):
            raise ValueError("is required with `username`; so is `sasl`")
        if not authenticates and "sasl" in info.data and (password or info.data.get("username")):
            raise ValueError('needs `sasl`, such as `sasl = "scram-sha-512"`')
        return password

    @field_validator("key_file")
    @classmethod
    def _files_are_for_tls(cls, key_file: object, info: ValidationInfo) -> object:
        data = info.data
        if any((data.get("ca_file"), data.get("certificate_file"), key_file)) and not data.get("tls", True):
            raise ValueError("needs `tls = true`, as `ca_file` and `certificate_file` do")
        if bool(key_file) != bool(data.get("certificate_file")):
            raise ValueError("is required with `certificate_file`")
        return key_file


def _on_this_machine(broker: str) -> bool:
    found = _BROKER.fullmatch(broker)
    return found is not None and is_loopback(found["host"].strip("[]"))

"""Asks a Kafka cluster whether it is as a sidecar and a worker need it: topics, rights, sizes. Writes nothing.

What a cluster does not say (rights and settings need a right of their own: DescribeConfigs) is not held against it.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not listed
    AclOperation,
    AdminClient,
    ConfigResource,
    TopicMetadata,
)

from gateway.formatting import age_text
from uploaders.kafka.options import KafkaOptions, connection_settings
from uploaders.kafka.refusals import RefusalWatch, why_refused

SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 0.5
"""After which a question that nobody has answered is looked into."""
WEEK: Final = 7 * 24 * 3600
WANTED: Final = ("max.message.bytes", "retention.ms", "min.insync.replicas")


@dataclass(frozen=True, slots=True)
class TopicState:
    """What a cluster says of a topic."""

    name: str
    exists: bool = True
    error: str | None = None
    replicas: int = 0
    """Of the partition with the fewest."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Those of `WANTED` that it says."""
    may_write: bool | None = None
    """None where it does not say."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about a cluster."""

    text: str
    is_problem: bool
    """Deliveries would fail."""


def findings(topics: list[TopicState], max_message_bytes: int) -> Iterator[Finding]:
    """What is wrong with topics, or should be looked at."""
    for topic in topics:
        if topic.error is not None:
            yield Finding(f"topic {topic.name}: {topic.error}", is_problem=True)
            continue
        if not topic.exists:
            yield Finding(f"there is no topic {topic.name}: create it", is_problem=True)
            continue
        if topic.may_write is False:
            yield Finding(f"topic {topic.name}: this user may not write it (ACL: Write)", is_problem=True)
        largest = topic.settings.get("max.message.bytes")
        if largest is not None and largest < max_message_bytes:
            yield Finding(
                f"topic {topic.name} takes {largest} bytes a message: set max_message_bytes below that, or "
                f"max.message.bytes above {max_message_bytes}",
                is_problem=True,
            )
        retention = topic.settings.get("retention.ms", -1) / 1000
        if 0 <= retention < WEEK:
            kept = age_text(retention)
            yield Finding(f"topic {topic.name} keeps messages for {kept}: a week is advised", is_problem=False)
        if topic.replicas == 1:
            yield Finding(f"topic {topic.name} has one replica: it is lost with its broker", is_problem=False)
        elif topic.settings.get("min.insync.replicas") == 1:
            reason = "a message may be confirmed by one broker alone"
            yield Finding(f"topic {topic.name}: min.insync.replicas is 1: {reason}", is_problem=False)


def ask(options: KafkaOptions) -> list[TopicState]:
    """What the cluster says of each topic that is configured. Raises `ConnectionError`, with the reason, where it
    cannot be reached or lets nobody in."""
    refusal = why_refused(options)
    if refusal is not None:
        raise ConnectionError(refusal)
    watch = RefusalWatch(options)
    # Kept until everything was answered: it must not be collected.
    admin = AdminClient({**connection_settings(options), "error_cb": watch.heard})  # type: ignore[dict-item]  # its stub is wrong
    known = _topics(admin, watch)
    names = (*options.topics.read, options.topics.dead)
    rights, settings = _rights(admin, [name for name in names if name in known]), _settings(admin, names)
    states = []
    for name in names:
        topic = known.get(name)
        if topic is None:
            states.append(TopicState(name, exists=False))
            continue
        replicas = min((len(each.replicas) for each in topic.partitions.values()), default=0)
        trouble = None if topic.error is None else topic.error.str()
        states.append(TopicState(name, True, trouble, replicas, settings.get(name, {}), rights.get(name)))
    return states


def _topics(admin: AdminClient, watch: RefusalWatch) -> Mapping[str, TopicMetadata]:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return admin.list_topics(timeout=PATIENCE_SECONDS).topics
        except KafkaException as error:
            admin.poll(0)
            refusal = watch.refusal()
            if refusal is not None:
                raise ConnectionError(refusal) from error
            if time.monotonic() >= deadline:
                reason = watch.trouble or error.args[0].str()
                raise ConnectionError(f"{reason} ({error.args[0].name()})") from error


def _rights(admin: AdminClient, names: list[str]) -> dict[str, bool]:
    if not names:
        return {}
    asked = admin.describe_topics(TopicCollection(names), include_authorized_operations=True, request_timeout=SECONDS)
    found = {}
    for name, future in asked.items():
        try:
            operations = future.result(SECONDS).authorized_operations
        except (KafkaException, TimeoutError):
            continue
        if operations is not None:
            found[name] = AclOperation.WRITE in operations
    return found


def _settings(admin: AdminClient, names: tuple[str, ...]) -> dict[str, Mapping[str, int]]:
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    found: dict[str, Mapping[str, int]] = {}
    for resource, future in admin.describe_configs(resources, request_timeout=SECONDS).items():
        try:
            settings = future.result(SECONDS)
        except (KafkaException, TimeoutError):
            continue
        found[resource.name] = {name: int(settings[name].value) for name in WANTED if name in settings}
    return found

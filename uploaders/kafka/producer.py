"""Produces messages: confirmed by every in-sync replica before they count as written.

librdkafka's producer is a thread of its own with a queue of its own. It reports what became of each message when it is
polled, which a thread here does; what all messages of a batch became is said to the event loop in one call. A message
is in order and there once for as long as a producer lives (idempotence); a new one may write a message again whose
report was lost, which readers recognise by its identity.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.kafka.messages import Message
from uploaders.kafka.options import KafkaOptions, connection_settings
from uploaders.kafka.refusals import RefusalWatch

POLL_SECONDS: Final = 0.2
"""How long the thread waits for reports at a time, and a stop for the thread."""
QUEUE_KILOBYTES: Final = 32 << 10
"""Memory for messages that are not confirmed yet; the dispatcher's slots keep far below it."""
LINGER_MILLISECONDS: Final = 5
"""How long a message waits for others to be sent with it."""
TOPIC_MILLISECONDS: Final = 3000
"""How long a topic may be unknown to the brokers until it counts as missing: it may just have been created."""
CLOSE_SECONDS: Final = 1.0
HEADROOM_BYTES: Final = 64 << 10
"""For key and headers, besides the value."""

_log = structlog.get_logger(__name__)


def producer_settings(options: KafkaOptions) -> dict[str, str | int]:
    """In librdkafka's words."""
    return {
        **connection_settings(options),
        "acks": "all",
        "enable.idempotence": "true",
        "compression.type": options.compression.value,
        "delivery.timeout.ms": round(options.delivery_timeout * 1000),
        "topic.metadata.propagation.max.ms": TOPIC_MILLISECONDS,
        "linger.ms": LINGER_MILLISECONDS,
        "message.max.bytes": options.max_message_bytes + HEADROOM_BYTES,
        "queue.buffering.max.kbytes": QUEUE_KILOBYTES,
        # As Java's clients do, so that their messages about a call go to the same partition.
        "partitioner": "murmur2_random",
    }


class MessageProducer:
    """Writes to one cluster, for the event loop. Nothing is connected before the first message."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._client: _Client | None = None

    async def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Write messages, and wait for what becomes of each: at most `delivery_timeout`. Never raises for Kafka."""
        try:
            client = self._connected()
        except KafkaException as error:
            return [outcome_of(error.args[0], message.topic) for message in messages]
        batch = _Batch(len(messages))
        for place, message in enumerate(messages):
            client.produce(message, partial(batch.report, place))
        return await batch.outcomes()

    async def close(self) -> None:
        """Stop the thread; what is not confirmed by then is given up."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close)

    def _connected(self) -> "_Client":
        """The client; a new one after an error that the library cannot recover from."""
        client = self._client
        if client is not None and client.fatal is not None:
            if client.refusal is None:  # of that the dispatcher speaks
                _log.error("kafka_producer_failed", reason=client.fatal, what_happens="a new one takes its place")
            threading.Thread(target=client.close, name="kafka-close", daemon=True).start()
            client = self._client = None
        if client is None:
            client = self._client = _Client(self._options)
        return client


Report = Callable[[Outcome], None]


class _Client:
    """A producer, and the thread that polls it. Raises `KafkaException` for settings that it does not take."""

    def __init__(self, options: KafkaOptions) -> None:
        self.fatal: str | None = None
        """Why nothing can be written with it any more."""
        self.refusal: str | None = None
        """Why no broker lets it in, if that is why."""
        self._stopping = False
        self._watch = RefusalWatch(options)
        self._producer = Producer({**producer_settings(options), "error_cb": self._failed})
        self._thread = threading.Thread(target=self._poll, name="kafka-producer", daemon=True)
        self._thread.start()

    def produce(self, message: Message, report: Report) -> None:
        """Queue a message; `report` is called once with what became of it, in any thread."""

        def reported(error: KafkaError | None, _message: Any) -> None:  # Any: the library's own type, not needed
            """A broker confirmed it, or it was given up."""
            report(Delivered() if error is None else self._outcome(error, message.topic))

        try:
            self._producer.produce(
                message.topic, message.value, message.key, on_delivery=reported, headers=list(message.headers)
            )
        except BufferError:
            report(RetryLater("the queue of messages that Kafka has not confirmed is full", Scope.DESTINATION))
        except KafkaException as error:
            # Of itself the library refuses what is too large; all else it refuses only after a fatal error.
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                self._failed(error.args[0], fatal=True)
            report(outcome_of(error.args[0], message.topic))

    def close(self) -> None:
        """Give up what is not confirmed within a second, and stop the thread."""
        self._producer.flush(CLOSE_SECONDS)
        self._producer.purge()
        self._stopping = True
        self._thread.join()

    def _poll(self) -> None:
        while not self._stopping:
            self._producer.poll(POLL_SECONDS)
            self.refusal = self.refusal or self._watch.refusal()
            if self.refusal is not None:
                self.fatal = self.refusal
                self._producer.purge()  # nobody needs to wait for the time-out
        self._producer.poll(0)  # what was given up is reported, too

    def _outcome(self, error: KafkaError, topic: str) -> Outcome:
        """With idempotence, what a destination refuses altogether is fatal, such as a missing right to a topic."""
        if self.refusal is not None:
            return Refused(f"Kafka, {self.refusal}", Scope.DESTINATION)
        if error.code() == KafkaError._MSG_TIMED_OUT and self._watch.trouble is not None:
            return RetryLater(f"Kafka, topic {topic}: not confirmed in time; {self._watch.trouble}", Scope.DESTINATION)
        outcome = outcome_of(error, topic)
        if isinstance(outcome, Refused) and outcome.scope is Scope.DESTINATION:
            self.fatal = outcome.reason
        return outcome

    def _failed(self, error: KafkaError, *, fatal: bool = False) -> None:
        self._watch.heard(error)
        if fatal or error.fatal():
            self.fatal = error.str()


class _Batch:
    """What became of the messages of one batch: said to the event loop once, when all are known."""

    def __init__(self, size: int) -> None:
        self._reports: list[tuple[int, Outcome]] = []
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._complete = self._loop.create_future()
        if not size:
            self._complete.set_result(None)

    def report(self, place: int, outcome: Outcome) -> None:
        """In any thread: an append is atomic, and whoever makes the list complete says so."""
        self._reports.append((place, outcome))
        if len(self._reports) == self._size:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                self._loop.call_soon_threadsafe(self._finish)

    async def outcomes(self) -> list[Outcome]:
        """Wait for them, in the order of the messages."""
        await self._complete
        return [outcome for _, outcome in sorted(self._reports, key=lambda report: report[0])]

    def _finish(self) -> None:
        if not self._complete.done():
            self._complete.set_result(None)


# Errors of Kafka as outcomes.

_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_REFUSED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "it needs the right to write there (ACL: Write and Describe)",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "it needs the right to produce idempotently (ACL: IdempotentWrite)",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topic: callspool makes none",
    KafkaError._UNKNOWN_TOPIC: "create the topic: callspool makes none",
    KafkaError._UNKNOWN_PARTITION: "create the topic: callspool makes none",
    KafkaError.TOPIC_EXCEPTION: "the name of the topic is not allowed",
    KafkaError.SASL_AUTHENTICATION_FAILED: "check `username` and `password`",
    KafkaError._AUTHENTICATION: "check `sasl`, `username` and `password`",
    KafkaError._SSL: "check `tls` and `ca_file`",
    KafkaError._INVALID_ARG: "check the settings of this destination",
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: "choose another `compression`",
}
"""Nothing will work there until somebody changes something, and what."""
_BAD_MESSAGE: Final = frozenset({KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP})


def outcome_of(error: KafkaError, topic: str) -> Refused | RetryLater:
    """What a message that was not confirmed means for its delivery."""
    code, said = error.code(), f"Kafka, topic {topic}: {error.str()} ({error.name()})"
    if code in _TOO_LARGE:
        return Refused(f"{said}; set max_message_bytes below the broker's message.max.bytes", too_large=True)
    if code in _REFUSED:
        return Refused(f"{said}; {_REFUSED[code]}", Scope.DESTINATION)
    if code in _BAD_MESSAGE:
        return Refused(said)
    return RetryLater(said, Scope.DESTINATION)

"""The consumer: reads topics in a thread of its own, hands batches to the event loop, and commits offsets after them.

The order is the promise: a batch is written into the database, then its offsets are committed, then they count as done.
While one batch is written, the offsets of the one before are committed and the next one is read. A write that takes
long, because the database is down, pauses the partitions; the thread goes on polling, so that the worker stays a member
of its group and nothing is rebalanced.

When partitions are revoked, what was read of them is written and committed first. When they are lost, they belong to
another worker already: what was read of them is dropped, and nothing of them is committed.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from gateway.worker.messages import Batch, Incoming, Ledger, Place
from uploaders.kafka.messages import BadMessage, read_message
from uploaders.kafka.options import KafkaOptions, Topics, connection_settings
from uploaders.kafka.refusals import RefusalWatch
from uploaders.stores.parts import Part

AT_ONCE: Final = 25
"""Messages that are taken from the library at once: a few MB at most where each is as large as it may be."""
BATCH_BYTES: Final = 4 << 20
"""A batch of this size takes no more messages."""
GROWTH: Final = 5
"""So many times its usual number of messages a batch takes while the one before it is being written."""
QUEUE_KILOBYTES: Final = 1 << 10
"""What the library reads ahead; by default it is 64 MiB."""
FETCH_BYTES: Final = 128 << 10
"""The most that a broker sends at once, compressed, unless a single message is larger: it may be 20 times that, and the
library has all of it in memory. Half a dozen batches; a broker 20 ms away is asked 50 times a second."""
PARTITION_BYTES: Final = 64 << 10
"""Of that, the most of one partition."""
FULL_MILLISECONDS: Final = 10
"""How soon the library asks for more once it has read ahead enough; by default it rests for a second."""
IDLE_SECONDS: Final = 0.5
BRIEF_SECONDS: Final = 0.05
"""How long to wait for the next message while none, or some, are in hand."""
PATIENCE_SECONDS: Final = 1.0
"""A write that takes longer pauses the partitions."""
REVOKE_SECONDS: Final = 10.0
"""How long another worker that is to have partitions waits for what was read of them."""
ENDING_SECONDS: Final = 5.0
"""How long a write that is given up may take to end."""
QUESTION_SECONDS: Final = 1.0
LAG_SECONDS: Final = 10.0
"""How often brokers are asked for the ends of partitions that are paused."""
LOG_SECONDS: Final = 60.0
"""How often the same trouble is logged."""

_log = structlog.get_logger("callspool.work")


class ConsumerFailed(Exception):
    """It cannot go on, such as when another worker uses the same instance name."""


@dataclass(frozen=True, slots=True)
class ConsumerRule:
    """How a worker reads."""

    group: str
    instance: str
    """Names this member of the group, through restarts (static membership)."""
    session_timeout: float
    batch_max: int
    batch_wait: float


@dataclass(slots=True)
class ConsumerFigures:
    """What the consumer's thread counts; others only read it."""

    rebalances: int = 0
    commit_failures: int = 0
    joined: bool = False
    """Whether the group has given it partitions, or none, since its start."""
    refusal: str | None = None
    """Why no broker lets this worker in, if that is so."""
    paused: bool = False
    partitions: int = 0
    lags: Mapping[Place, int] = field(default_factory=dict)
    """For each partition of this worker, how many messages are not committed yet."""


@dataclass(slots=True)
class _Writing:
    """A batch on its way into the store."""

    batch: Batch
    done: "Future[None]"
    ended: threading.Event
    """Set when nothing of it runs any more, also after it was cancelled."""


def consumer_settings(options: KafkaOptions, rule: ConsumerRule) -> dict[str, str | int | bool]:
    """In librdkafka's words."""
    return {
        **connection_settings(options),
        "group.id": rule.group,
        "group.instance.id": rule.instance,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": round(rule.session_timeout * 1000),
        "heartbeat.interval.ms": round(rule.session_timeout * 1000 / 6),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": QUEUE_KILOBYTES,
        "fetch.max.bytes": FETCH_BYTES,
        "message.max.bytes": FETCH_BYTES,  # of what it would produce, which is nothing: fetches may not be smaller
        "max.partition.fetch.bytes": PARTITION_BYTES,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": FULL_MILLISECONDS,
    }


class TopicConsumer:
    """Reads the topics of a cluster as one member of a group, from `start` until `stop`.

    `write` returns once a batch is durable; it may be cancelled.
    """

    def __init__(
        self, options: KafkaOptions, rule: ConsumerRule, write: Callable[[Batch], Awaitable[None]], ledger: Ledger
    ) -> None:
        self.figures = ConsumerFigures()
        self._options = options
        self._rule = rule
        self._write = write
        self._ledger = ledger
        self._batch = ledger.begin()
        self._begun_at = 0.0
        self._writing: _Writing | None = None
        self._owned: set[Place] = set()
        self._at_end: set[Place] = set()
        self._committed: dict[Place, int] = {}
        self._owed: dict[Place, int] = {}
        """Offsets of what is stored, and not committed yet."""
        self._commit_again_at = 0.0
        self._lags_due_at = 0.0
        self._logged: dict[object, float] = {}
        self._watch = RefusalWatch(options)
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._stop_seconds = 0.0

    async def run(self) -> None:
        """Read until `stop`, then write and commit what is in hand. Raises `ConsumerFailed`."""
        self._loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = self._loop.create_future()

        def run() -> None:
            """The thread."""
            try:
                self._run()
            except BaseException as error:  # noqa: BLE001  # it is raised where the thread is waited for
                self._loop.call_soon_threadsafe(ended.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(ended.set_result, None)

        threading.Thread(target=run, name="kafka-consumer", daemon=True).start()
        await ended

    def stop(self, seconds: float) -> None:
        """Read no more; what is in hand has this long to be written and committed. For any thread.

        The second time there is no time left for that.
        """
        if self._stopping.is_set():
            self._hurried.set()
        self._stop_seconds = seconds
        self._stopping.set()

    # The thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            consumer = Consumer({**consumer_settings(self._options, self._rule), "error_cb": self._trouble})
        except KafkaException as error:
            raise ConsumerFailed(f"Kafka: {error.args[0].str()}") from error
        self._consumer = consumer
        try:
            consumer.subscribe(
                list(self._options.topics.read),
                on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost,
            )  # fmt: skip
            while not self._stopping.is_set():
                self._settle_if_done()
                if self._is_due():
                    self._hand_over()
                # The store is at work on the next batch again, if there is one.
                if self._owed and time.monotonic() >= self._commit_again_at:
                    self._commit()
                self._gather()
                self._look_at_lags()
            self._finish(self._stop_seconds)
        finally:
            consumer.close()

    def _gather(self) -> None:
        """Read what is there, and wait for the first message, or briefly for further ones."""
        if self._batch.messages or self._writing:
            self._take(self._consumer.consume(min(AT_ONCE, self._room()), BRIEF_SECONDS))
        else:
            self._take(self._consumer.consume(1, IDLE_SECONDS))
            self._take(self._consumer.consume(min(AT_ONCE, self._room()), 0))

    def _most(self) -> int:
        """How many messages the batch may take.

        What arrives during a commit shares the next ones: a commit of 20 ms bounds transactions of 100 to 5,000
        messages a second, however fast the database is.
        """
        return self._rule.batch_max * (GROWTH if self._writing else 1)

    def _room(self) -> int:
        return max(1, self._most() - len(self._batch.messages))

    def _take(self, messages: Sequence[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                self.figures.refusal = None
            if error is not None:
                self._heard(message, error)
                continue
            if not self._batch.messages:
                self._begun_at = time.monotonic()
            incoming = _incoming(message, self._options.topics)
            self._at_end.discard(incoming.place)
            self._ledger.read(self._batch, incoming)

    def _heard(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._at_end.add(_place_of(message))
        else:
            self._trouble(error)

    def _is_due(self) -> bool:
        """Full, or nothing more is there to read, or the oldest message has waited long enough."""
        batch = self._batch
        if not batch.messages:
            return False
        if len(batch.messages) >= self._most() or batch.byte_count >= BATCH_BYTES:
            return True
        return self._at_end >= self._owned or time.monotonic() - self._begun_at >= self._rule.batch_wait

    def _hand_over(self) -> None:
        """Give the batch to the event loop; one at a time, so that offsets are committed in order."""
        self._settle()
        if self._writing is not None or not self._batch.messages:
            return  # it is to stop, or the partitions were taken away while the batch before was written
        batch, ended = self._batch, threading.Event()

        async def write() -> None:
            """On the event loop."""
            try:
                await self._write(batch)
            finally:
                ended.set()

        self._writing = _Writing(batch, asyncio.run_coroutine_threadsafe(write(), self._loop), ended)
        self._batch = self._ledger.begin()

    def _settle_if_done(self) -> None:
        if self._writing is not None and self._writing.done.done():
            self._settle()

    def _settle(self) -> None:
        """Wait until what is being written is durable.

        As long as it takes, unless the worker is to stop: the thread polls meanwhile, with the partitions paused, so
        that the group knows that this worker lives.
        """
        while not self._settled_within(PATIENCE_SECONDS if not self.figures.paused else BRIEF_SECONDS):
            if self._stopping.is_set():
                return
            self._pause()
            self._take(self._consumer.consume(1, IDLE_SECONDS))
            self._look_at_lags()
        self._resume()

    def _settled_within(self, seconds: float) -> bool:
        """Whether nothing is being written any more; the offsets of what became durable are owed then."""
        writing = self._writing
        if writing is None:
            return True
        try:
            writing.done.result(seconds)
        except TimeoutError:
            return False
        except CancelledError as error:
            raise ConsumerFailed("the event loop has ended") from error
        self._writing = None
        self._ledger.end(writing.batch, written=True)
        self._owed |= writing.batch.offsets
        return True

    def _finish(self, seconds: float) -> None:
        """Write and commit what is in hand, as far as there is time; the rest is read again by whoever comes next."""
        deadline = time.monotonic() + seconds
        if self._settled_by(deadline) and self._batch.messages:
            self._hand_over()
            self._settled_by(deadline)
        if self._writing is not None:
            self._writing.done.cancel()
            self._writing.ended.wait(ENDING_SECONDS)
            self._give_up(self._writing.batch)
            self._writing = None
        batch, self._batch = self._batch, self._ledger.begin()
        self._give_up(batch)
        self._commit()

    def _settled_by(self, deadline: float) -> bool:
        """As `_settled_within`, until the deadline or a second order to stop."""
        while not self._settled_within(BRIEF_SECONDS):
            if time.monotonic() >= deadline or self._hurried.is_set():
                return False
        return True

    def _give_up(self, batch: Batch) -> None:
        self._ledger.end(batch, written=False)
        if batch.messages:
            _log.warning("batch_given_up", messages=len(batch.messages), what_happens="it is read again")

    def _commit(self) -> None:
        """After the database, never before it.

        A group that is being rebalanced takes no commit: it is tried again. What is never committed is written again by
        whoever comes next, which changes nothing.
        """
        if not self._owed:
            return
        self._commit_again_at = time.monotonic() + BRIEF_SECONDS
        offsets = [TopicPartition(topic, number, offset) for (topic, number), offset in self._owed.items()]
        try:
            results = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            self._commit_failed(error.args[0])
            return
        for result in results or ():
            if result.error is not None:
                self._commit_failed(result.error)
            else:
                self._committed[result.topic, result.partition] = result.offset
                del self._owed[result.topic, result.partition]

    def _commit_failed(self, error: KafkaError) -> None:
        self.figures.commit_failures += 1
        self._log_now_and_then("commit_failed", error.code(), error.str())

    # Rebalances: called by the library while the thread polls ----------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.figures.rebalances += 1
        self.figures.joined = True
        self._owned |= {_place(each) for each in partitions}
        self.figures.partitions = len(self._owned)
        consumer.incremental_assign(partitions)
        # The library keeps a partition paused that was lost while it was.
        (consumer.pause if self.figures.paused else consumer.resume)(partitions)
        _log.info("partitions_assigned", partitions=len(partitions), now=len(self._owned))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another worker is to have them: what was read of them is written and committed first.

        Where the store does not take it now, that worker reads it again.
        """
        self.figures.rebalances += 1
        places = [_place(each) for each in partitions]
        deadline = time.monotonic() + (0.0 if self.figures.paused else REVOKE_SECONDS)
        if self._settled_within(max(0.0, deadline - time.monotonic())):
            if any(message.place in places for message in self._batch.messages):
                self._hand_over()
            self._settled_within(max(0.0, deadline - time.monotonic()))
        self._commit()
        self._disown(places)
        consumer.incremental_unassign(partitions)
        _log.info("partitions_revoked", partitions=len(partitions), now=len(self._owned))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Another worker has them already: nothing that was read of them may be committed."""
        self.figures.rebalances += 1
        self._disown([_place(each) for each in partitions])
        consumer.incremental_unassign(partitions)
        _log.warning("partitions_lost", partitions=len(partitions), now=len(self._owned))

    def _disown(self, places: Sequence[Place]) -> None:
        """Forget what was read of them. What is being written goes on, and commits nothing in them."""
        self._ledger.drop(self._batch, places)
        if self._writing is not None:
            self._writing.batch.disown(places)
        self._owned -= set(places)
        self.figures.partitions = len(self._owned)
        self._at_end -= set(places)
        for place in places:
            self._committed.pop(place, None)
            self._owed.pop(place, None)

    # Pausing, lag, and trouble -----------------------------------------------------------------------------------

    def _pause(self) -> None:
        if not self.figures.paused:
            self.figures.paused = True
            self._consumer.pause(self._consumer.assignment())
            _log.warning("partitions_paused", reason="the store accepts nothing at the moment")

    def _resume(self) -> None:
        if self.figures.paused:
            self.figures.paused = False
            self._consumer.resume(self._consumer.assignment())
            _log.info("partitions_resumed")

    def _look_at_lags(self) -> None:
        """High watermark minus committed offset. Those of paused partitions are asked for: they are not read."""
        now = time.monotonic()
        if now < self._lags_due_at:
            return
        try:
            self._ask_committed()
            self.figures.lags = {place: lag for place in sorted(self._owned) if (lag := self._lag(place)) is not None}
        except KafkaException as error:
            self._log_now_and_then("lag_unknown", error.args[0].code(), error.args[0].str())
        self._lags_due_at = time.monotonic() + (LAG_SECONDS if self.figures.paused else IDLE_SECONDS)

    def _ask_committed(self) -> None:
        """Ask for the offsets that are not known; one that the broker withholds stays so. Raises `KafkaException`."""
        unknown = [TopicPartition(*place) for place in self._owned - self._committed.keys()]
        if not unknown:
            return
        found = self._consumer.committed(unknown, timeout=QUESTION_SECONDS)
        self._committed |= known_offsets(found)
        if error := next((each.error for each in found if each.error is not None), None):
            self._log_now_and_then("lag_unknown", error.code(), error.str())

    def _lag(self, place: Place) -> int | None:
        """None while the end of the partition, or what is committed of it, is not known. Raises `KafkaException`."""
        if place not in self._committed:
            return None
        partition = TopicPartition(*place)
        if self.figures.paused:
            low, high = self._consumer.get_watermark_offsets(partition, timeout=QUESTION_SECONDS)
        else:
            low, high = self._consumer.get_watermark_offsets(partition, cached=True)
        return None if high < 0 else max(0, high - max(self._committed[place], low))

    def _trouble(self, error: KafkaError) -> None:
        """Raises `ConsumerFailed` where the library gives up for good."""
        if error.fatal():
            raise ConsumerFailed(_fatal_reason(error, self._rule.instance))
        self._watch.heard(error)
        refusal = self._watch.refusal()
        if refusal is not None:
            self.figures.refusal = refusal
            self._log_now_and_then("kafka_refuses_this_worker", None, refusal)
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._log_now_and_then("kafka_trouble", error.code(), f"{self._watch.trouble} ({error.name()})")

    def _log_now_and_then(self, event: str, code: int | None, reason: str) -> None:
        """The same trouble once a minute: its text has times and addresses, its code has not."""
        now = time.monotonic()
        if now - self._logged.get((event, code), -LOG_SECONDS) >= LOG_SECONDS:
            self._logged[event, code] = now
            _log.warning(event, reason=reason)


def known_offsets(answers: Iterable[TopicPartition]) -> dict[Place, int]:
    """From a broker's answers to the committed offsets, 0 where nothing is; without those that are errors."""
    return {_place(each): max(each.offset, 0) for each in answers if each.error is None}


def _fatal_reason(error: KafkaError, instance: str) -> str:
    if error.code() == KafkaError.FENCED_INSTANCE_ID or "fenced" in error.str().lower():
        return f"another worker of the group is called {instance}, too: give each its own work.instance"
    return f"Kafka: {error.str()} ({error.name()})"


def _place(partition: TopicPartition) -> Place:
    return (str(partition.topic), int(partition.partition))


def _incoming(message: Message, topics: Topics) -> Incoming:
    """A message without an error has a place."""
    given = message.headers() or ()
    headers = tuple([(str(each[0]), each[1] if isinstance(each[1], bytes) else b"") for each in given])
    (topic, partition), offset = _place_of(message), int(message.offset() or 0)
    key, value = _bytes(message.key()), _bytes(message.value())
    part: Part | BadMessage
    try:
        part = read_message(topic, key, value, headers, message.timestamp()[1], topics)
    except BadMessage as error:
        part = error
    return Incoming(topic, partition, offset, key, value, headers, part)


def _place_of(message: Message) -> Place:
    return (str(message.topic()), int(message.partition() or 0))


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data

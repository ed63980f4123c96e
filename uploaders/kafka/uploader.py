"""Delivers to Kafka: each delivery is one message, written in batches, delivered when every in-sync replica has it.

What is larger than `max_message_bytes` is never written: a large call log arrives as its core, and its detail goes into
a bucket, whose notice is the message (claim check), or the fallbacks of what is too large.

Limits: topics are not created, transactions are not used (docs/decisions/0051).
"""

from collections.abc import Sequence
from typing import Final

from spool.records import REQUEST_FORMS, Delivery, Form
from uploaders.base import Outcome, PayloadReader, Refused, RetryLater
from uploaders.document.body import BodyRoom, TooLarge
from uploaders.document.encoding import NotReducible, Reduction, decoded_document, encode_text, reduced_document
from uploaders.document.options import Encoding
from uploaders.document.render import BadLocation, raw_bytes_of, render
from uploaders.kafka.messages import Message, message_of
from uploaders.kafka.options import KafkaOptions
from uploaders.kafka.producer import MessageProducer
from uploaders.rate_limit import UNLIMITED, Bandwidth, paced

BATCH_SIZE: Final = 500
"""The most deliveries of one batch; the library makes batches of its own for each broker."""
FORMS: Final = REQUEST_FORMS


class KafkaUploader:
    """Delivers to the topics of one cluster."""

    batch_size = BATCH_SIZE

    def __init__(
        self,
        options: KafkaOptions,
        payloads: PayloadReader,
        bandwidth: Bandwidth = UNLIMITED,
        reduction: Reduction | None = None,
    ) -> None:
        self._options = options
        self._payloads = payloads
        self._bandwidth = bandwidth
        self._reduction = reduction
        self._producer = MessageProducer(options)

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Write one message."""
        return (await self.deliver_many([delivery]))[0]

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Write a message for each, and wait until all are confirmed or failed."""
        outcomes: dict[int, Outcome] = {}
        messages: dict[int, Message] = {}
        for index, delivery in enumerate(deliveries):
            value = await self._value(delivery)
            if isinstance(value, bytes):
                messages[index] = message_of(delivery, value, self._options.topics)
            else:
                outcomes[index] = value
        outcomes.update(zip(messages, await self._producer.send(list(messages.values())), strict=True))
        return [outcomes[index] for index in range(len(deliveries))]

    async def close(self) -> None:
        """Close the producer."""
        await self._producer.close()

    async def _value(self, delivery: Delivery) -> bytes | Refused | RetryLater:
        """The document, which fits into a message; else what became of the delivery."""
        try:
            value = await self._document(delivery)
        except (BadLocation, NotReducible) as error:
            return Refused(str(error))
        except TooLarge as error:
            return Refused(
                f"the {delivery.form} is longer than max_message_bytes = {error.max_bytes}: let a bucket notify this "
                "destination (`notify`), or set `when_too_large`",
                too_large=True,
            )
        except OSError as error:
            return RetryLater(f"cannot write a reduced detail to a temporary file: {error.strerror}")
        async for _ in paced(value, self._bandwidth.pace(delivery.lane)):
            pass  # it goes in one piece, once the last byte of it may
        return value

    async def _document(self, delivery: Delivery) -> bytes:
        most = self._options.max_message_bytes
        if delivery.form is Form.REDUCED:
            return await self._reduced(delivery, most)
        if raw_bytes_of(delivery.record, render(delivery)) > most:
            raise TooLarge(most)
        return b"".join([piece async for piece in decoded_document(delivery, self._payloads.frames)])

    async def _reduced(self, delivery: Delivery, most: int) -> bytes:
        if self._reduction is None:
            raise NotReducible("this destination no longer reduces details: replay the full one instead")
        document = await reduced_document(delivery, self._payloads.frames, self._reduction)
        body = await encode_text(document, Encoding.IDENTITY, BodyRoom(most, self._reduction.directory))
        try:
            return bytes(body.data)
        finally:
            await body.release()

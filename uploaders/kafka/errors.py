"""The one translation of Kafka's errors into outcomes."""

from typing import Final

from confluent_kafka import KafkaError

from uploaders.base import Refused, RetryLater, Scope

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

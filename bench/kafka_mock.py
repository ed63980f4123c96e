"""librdkafka's mock cluster, which the client library brings along, driven through ctypes.

    python -m bench.kafka_mock [BROKERS]

The first line that it writes is its address; then it takes orders, one a line, and answers each with an error number,
0 for none:

    topic NAME PARTITIONS
    down BROKER, up BROKER
    fail API_KEY ERROR ...     answers the next requests of this kind with these errors
"""

import ctypes
import sys
from pathlib import Path

import confluent_kafka

_POINTER, _INT, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_FUNCTIONS = {
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_new": (_POINTER, [_INT, _POINTER, _TEXT, ctypes.c_size_t]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, _INT]),
    "rd_kafka_mock_cluster_bootstraps": (_TEXT, [_POINTER]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_topic_create": (_INT, [_POINTER, _TEXT, _INT, _INT]),
    "rd_kafka_mock_broker_set_down": (_INT, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (_INT, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        [_POINTER, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(_INT)],
    ),
}


def library() -> ctypes.CDLL:
    """librdkafka as it lies in the client's wheel, with the types of what is called."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    loaded = ctypes.CDLL(str(next(folder.glob("librdkafka*.so*"))))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def main() -> None:
    """Run until standard input ends."""
    rdkafka = library()
    said = ctypes.create_string_buffer(512)
    client = rdkafka.rd_kafka_new(0, rdkafka.rd_kafka_conf_new(), said, 512)
    cluster = rdkafka.rd_kafka_mock_cluster_new(client, int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    rdkafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    print(rdkafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        order, *words = line.split()
        answer = 0
        if order == "topic":
            answer = rdkafka.rd_kafka_mock_topic_create(cluster, words[0].encode(), int(words[1]), 1)
        elif order == "fail":
            errors = [int(word) for word in words[1:]]
            array = (ctypes.c_int * len(errors))(*errors)
            rdkafka.rd_kafka_mock_push_request_errors_array(cluster, int(words[0]), len(errors), array)
        else:
            change = {"down": rdkafka.rd_kafka_mock_broker_set_down, "up": rdkafka.rd_kafka_mock_broker_set_up}[order]
            answer = change(cluster, int(words[0]))
        print(answer, flush=True)


if __name__ == "__main__":
    main()

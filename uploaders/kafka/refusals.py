"""Why a cluster does not let this client in.

librdkafka says what SASL answered. Of TLS it says no more than "certificate verify failed", and nothing at all where a
broker refuses the client's own certificate or wants one that speaks TLS or SASL. So what a client does first is done
here once more, by hand, with one broker: connect, shake hands, ask for its versions, ask for its topics.
"""

import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError

from uploaders.kafka.options import KafkaOptions, Sasl

LOOK_SECONDS: Final = 10.0
"""How often brokers are looked at, and how long an answer of SASL counts: the others may know the user."""
SECONDS: Final = 3.0
"""For each step with a broker."""
ALERT_SECONDS: Final = 0.3
"""How long a broker may take to refuse the client's certificate after the handshake of TLS 1.3."""
DEFAULT_PORT: Final = 9092
_LOOKED_AT: Final = 3
"""Brokers that are asked before the reason is taken for an outage."""
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME = 10, 9, (62, 64)
"""Results of OpenSSL's verification (X509_V_ERR_*)."""
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it wants a certificate of the client: set `certificate_file` and `key_file`",
    "CERTIFICATE_EXPIRED": "the client's certificate has expired: renew the one in `certificate_file`",
    "CERTIFICATE_REVOKED": "the client's certificate was revoked: replace the one in `certificate_file`",
    "UNKNOWN_CA": "it does not know the authority of the client's certificate: check `certificate_file`",
    "BAD_CERTIFICATE": "it refuses the client's certificate: check `certificate_file`",
    "CERTIFICATE_UNKNOWN": "it refuses the client's certificate: check `certificate_file`",
    "HANDSHAKE_FAILURE": "it refuses the client in the TLS handshake: check `certificate_file`",
    "PROTOCOL_VERSION": "it speaks no version of TLS that this client speaks",
}
"""What a broker says of the client, by the end of OpenSSL's name for it."""
_PLAIN_TEXT: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
_TLS_ALERT: Final = 0x15
_API_VERSIONS: Final = struct.pack(">hhih9s", 18, 0, 1, 9, b"callspool")
_METADATA: Final = struct.pack(">hhih9siB", 3, 4, 2, 9, b"callspool", 0, 0)
"""Of no topic."""


class RefusalWatch:
    """Hears the errors of a client, and finds out, once no broker is left, whether they keep it out.

    For the thread that polls the client.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self.trouble: str | None = None
        """What was heard last."""
        self._options = options
        self._all_down = False
        self._looked_at = -LOOK_SECONDS
        self._answered_at = -LOOK_SECONDS
        self._answer = ""

    def heard(self, error: KafkaError) -> None:
        """The library's callback for errors."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True
            return
        self.trouble = _without_address(error.str())
        if error.code() == KafkaError._AUTHENTICATION:
            self._answered_at = time.monotonic()
            self._answer = f"{self.trouble}; check `sasl`, `username` and `password`"

    def refusal(self) -> str | None:
        """Why no broker lets the client in; None while one does, or where they are down. It may block for seconds."""
        now = time.monotonic()
        if not self._all_down:
            return None
        self._all_down = False
        if now - self._answered_at < LOOK_SECONDS:
            return self._answer
        if now - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = now
        return why_refused(self._options)


def _without_address(said: str) -> str:
    """`ssl://a:9092/bootstrap: Disconnected (after 2ms in state UP)` is `a:9092: Disconnected`."""
    where, colon, reason = said.partition(": ")
    if not colon or "/" not in where:
        return said
    broker = where.rpartition("://")[2].partition("/")[0]
    return f"{broker}: {reason.rpartition(' (after ')[0] or reason}"


def why_refused(options: KafkaOptions) -> str | None:
    """What is wrong between these settings and the brokers, and what to do; None where they are down, or let it in.

    It blocks for some seconds at most. What a password is worth only SASL says.
    """
    for broker in options.brokers[:_LOOKED_AT]:
        reason = _look(broker, options)
        if reason is not None:
            return f"{broker}: {reason}"
    return None


def _look(broker: str, options: KafkaOptions) -> str | None:
    host, port = _address(broker)
    try:
        context = _context(options) if options.tls else None
    except OSError as error:  # of which ssl.SSLError is one
        return f"the files of `ca_file`, `certificate_file` and `key_file` cannot be used: {error}"
    with suppress(OSError), socket.create_connection((host, port), SECONDS) as connection:
        if context is None:
            return _speak(connection, options)
        try:
            with context.wrap_socket(connection, server_hostname=host) as encrypted:
                return _speak(encrypted, options)
        except OSError as error:
            return _of_tls(error, host)
    return None  # it is down


def _address(broker: str) -> tuple[str, int]:
    host, colon, port = broker.rpartition(":")
    if not colon or broker.endswith("]"):
        host, port = broker, str(DEFAULT_PORT)
    return host.strip("[]"), int(port)


def _context(options: KafkaOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.ca_file)
    if options.certificate_file is not None:
        context.load_cert_chain(options.certificate_file, options.key_file)
    return context


def _speak(connection: socket.socket, options: KafkaOptions) -> str | None:
    """What its answers, or its silence, say."""
    if isinstance(connection, ssl.SSLSocket):
        # With TLS 1.3 a client's certificate is refused after the handshake; who writes first may miss why.
        connection.settimeout(ALERT_SECONDS)
        with suppress(TimeoutError):
            connection.recv(1)
        connection.settimeout(SECONDS)
    answer = _asked(connection, _API_VERSIONS)
    if not options.tls and (not answer or answer[0] == _TLS_ALERT):
        return "it does not answer in plain text: set `tls = true`, or check `brokers`"
    if not answer:
        return "it closes the connection after the TLS handshake: check `certificate_file`, and `brokers`"
    if options.sasl is Sasl.NONE and not _asked(connection, _METADATA):
        return "it closes the connection at the first request: it wants authentication, set `sasl`"
    return None


def _asked(connection: socket.socket, request: bytes) -> bytes:
    """The answer to a request; nothing where the connection was closed instead."""
    try:
        connection.sendall(struct.pack(">i", len(request)) + request)
        head = connection.recv(4)
        if len(head) < 4 or head[0] == _TLS_ALERT:
            return head
        (rest,) = struct.unpack(">i", head)
        while rest > 0 and (piece := connection.recv(min(rest, 1 << 16))):
            rest -= len(piece)
    except ssl.SSLError:
        raise
    except (ConnectionError, TimeoutError):
        return b""
    return head


def _of_tls(error: OSError, host: str) -> str:
    """Why the handshake failed, and whose fault that is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_its_certificate(error, host)
    if isinstance(error, TimeoutError):
        return "it does not answer a TLS handshake: check `brokers` and `tls`"
    name = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if name in _PLAIN_TEXT:
        return "it does not speak TLS on this port: check `brokers` and `tls`"
    for end, meaning in _ALERTS.items():
        if name.endswith(end):
            return meaning
    return f"it breaks the TLS handshake off ({name or error}): check `tls` and `certificate_file`"


def _of_its_certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code == _EXPIRED:
        return "the broker's certificate has expired: renew it there"
    if error.verify_code == _NOT_YET_VALID:
        return "the broker's certificate is not valid yet: look at the clocks"
    if error.verify_code in _OTHER_NAME:
        return f"the broker's certificate is not one of {host}: name it in `brokers` as its certificate does"
    return f"the broker's certificate is not trusted ({error.verify_message}): check `ca_file`"

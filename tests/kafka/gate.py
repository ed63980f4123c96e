"""A secured listener in front of the broker in memory, which knows neither TLS with client certificates nor PLAIN.

It does what a listener of Apache Kafka does before the first request: TLS, also with client certificates, then SASL by
PLAIN or SCRAM (RFC 5802), with Kafka's error codes and messages. What comes after that is passed on byte for byte. The
broker advertises the address of the gate, so that clients never see another one.
"""

import base64
import hashlib
import hmac
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from bench.kafka_servers import KafkaServer

SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 17, 18, 36
"""API keys of the requests before authentication."""
UNSUPPORTED_MECHANISM, AUTHENTICATION_FAILED = 33, 58
ITERATIONS: Final = 4096
HASHES: Final = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class Denied(Exception):
    """The client is not who it says it is; what Kafka says then."""


@dataclass
class Door:
    """Who is let in. What is changed holds from the next connection on."""

    tls: ssl.SSLContext | None = None
    users: Mapping[str, str] | None = None
    """Passwords; None: nobody has to authenticate."""
    mechanisms: tuple[str, ...] = ("PLAIN", *HASHES)


class Gate:
    """A broker behind a door. Each connection has a thread: of the library, only its sockets send TLS alerts."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.brokers = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.inside = KafkaServer(advertised=self.brokers)
        self._connections: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="kafka-gate", daemon=True).start()
        self.inside.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.turn_out()
        self.inside.stop()

    def turn_out(self) -> None:
        """Break every connection: who comes again has to pass the door again."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, outside: socket.socket) -> None:
        self._connections.add(outside)
        host, port = self.inside.address.split(":")
        door = self.door
        try:
            with suppress(OSError, EOFError, Denied), socket.create_connection((host, int(port))) as inside:
                with outside if door.tls is None else door.tls.wrap_socket(outside, server_side=True) as client:
                    self._connections.add(client)
                    if door.users is not None:
                        _authenticate(client, inside, door.users, door.mechanisms)
                    _pass_on(client, inside)
                self._connections.discard(client)
        finally:
            self._connections.discard(outside)
            outside.close()


def _authenticate(
    client: socket.socket, inside: socket.socket, users: Mapping[str, str], mechanisms: tuple[str, ...]
) -> None:
    """Until the client has proved who it is. Raises `Denied` after it was told."""
    exchange: Plain | Scram | None = None
    while exchange is None or not exchange.done:
        request = _frame(client)
        key, version, correlation, name_length = struct.unpack_from(">hhih", request)
        body = request[10 + max(name_length, 0) :]
        if key == API_VERSIONS:
            _send(inside, request)
            _send(client, _frame(inside))
        elif key == SASL_HANDSHAKE:
            mechanism = body[2:].decode()
            known = mechanism in mechanisms
            names = b"".join(map(_text, mechanisms))
            error = 0 if known else UNSUPPORTED_MECHANISM
            _send(client, struct.pack(">ihi", correlation, error, len(mechanisms)) + names)
            if not known:
                raise Denied(mechanism)
            exchange = Plain(users) if mechanism == "PLAIN" else Scram(users, mechanism)
        elif key == SASL_AUTHENTICATE and exchange is not None:
            (length,) = struct.unpack_from(">i", body)
            lifetime = struct.pack(">q", 0) if version else b""
            try:
                said = exchange.answer(body[4 : 4 + length])
            except Denied as denied:
                told = struct.pack(">ih", correlation, AUTHENTICATION_FAILED) + _text(str(denied))
                _send(client, told + struct.pack(">i", 0) + lifetime)
                raise
            _send(client, struct.pack(">ihhi", correlation, 0, -1, len(said)) + said + lifetime)
        else:
            raise Denied(f"request {key} comes before authentication")


class Plain:
    """RFC 4616: the password as it is."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = users
        self.done = False

    def answer(self, said: bytes) -> bytes:
        _, name, password = said.decode().split("\0")
        if self._users.get(name) != password:
            raise Denied("Authentication failed: Invalid username or password")
        self.done = True
        return b""


class Scram:
    """RFC 5802: the proof of a password, and the server's proof that it knows it, too."""

    def __init__(self, users: Mapping[str, str], mechanism: str) -> None:
        self._users = users
        self._mechanism = mechanism
        self._hash = HASHES[mechanism]
        self._salt = os.urandom(16)
        self._client_first = self._server_first = ""
        self.done = False

    def answer(self, said: bytes) -> bytes:
        text = said.decode()
        if not self._client_first:
            self._client_first = text.removeprefix("n,,")
            nonce = _fields(self._client_first)["r"] + base64.b64encode(os.urandom(12)).decode()
            self._server_first = f"r={nonce},s={base64.b64encode(self._salt).decode()},i={ITERATIONS}"
            return self._server_first.encode()
        without_proof, proof = text.rsplit(",p=", 1)
        signed = f"{self._client_first},{self._server_first},{without_proof}".encode()
        password = self._users.get(_fields(self._client_first)["n"], os.urandom(8).hex())
        salted = hashlib.pbkdf2_hmac(self._hash, password.encode(), self._salt, ITERATIONS)
        client_key = self._mac(salted, b"Client Key")
        signature = self._mac(hashlib.new(self._hash, client_key).digest(), signed)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if base64.b64decode(proof) != expected:
            raise Denied(
                "Authentication failed during authentication due to invalid credentials with SASL mechanism "
                f"{self._mechanism}"
            )
        self.done = True
        return b"v=" + base64.b64encode(self._mac(self._mac(salted, b"Server Key"), signed))

    def _mac(self, key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, self._hash).digest()


def _fields(text: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in text.split(","))


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _send(to: socket.socket, frame: bytes) -> None:
    to.sendall(struct.pack(">i", len(frame)) + frame)


def _frame(of: socket.socket) -> bytes:
    (length,) = struct.unpack(">i", _exactly(of, 4))
    return _exactly(of, length)


def _exactly(of: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        piece = of.recv(length - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _pass_on(client: socket.socket, inside: socket.socket) -> None:
    """Whatever one sends the other gets, until one of them closes."""
    other = {client: inside, inside: client}
    while True:
        decrypted = [client] if isinstance(client, ssl.SSLSocket) and client.pending() else []
        readable = decrypted or select.select([client, inside], [], [])[0]
        for each in readable:
            piece = each.recv(1 << 16)
            if not piece:
                return
            other[each].sendall(piece)

"""One kept-open connection of the load generator: a post is sent, its answer is read, nothing else is done.

An HTTP client library would use more CPU per post than the server that is to be measured; here a post costs
two system calls and no parsing beyond the status and the length of the answer.
"""

import socket

from bench.requests import Template

_SEND_STEP = 1 << 20
_LENGTH = b"content-length:"


class BadAnswer(Exception):
    """The server closed the connection or answered in a way that this generator does not read."""


class Connection:
    """A non-blocking connection with at most one post under way."""

    def __init__(self, port: int, template: Template) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.started_ns = 0
        self.number = 0
        self._template = template
        self._unsent = memoryview(b"")
        self._answer = b""

    def begin(self, number: int, now_ns: int) -> bool:
        """Start to send the post with this number; true when all of it went at once."""
        self.number = number
        self.started_ns = now_ns
        self._answer = b""
        self._unsent = self._template.numbered(number)
        return self.send()

    def send(self) -> bool:
        """Send what the socket takes; true when nothing is left."""
        while self._unsent:
            try:
                sent = self.socket.send(self._unsent[:_SEND_STEP])
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def receive(self) -> int | None:
        """Read what has come; the HTTP status when the answer is complete."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return None
        if not data:
            message = "the server closed the connection"
            raise BadAnswer(message)
        self._answer = self._answer + data if self._answer else data
        return status_of(self._answer)

    def close(self) -> None:
        """Close the connection, whatever is under way."""
        self.socket.close()


def status_of(answer: bytes) -> int | None:
    """The status of an HTTP/1.1 answer with a Content-Length; None while some of it is still missing."""
    head_end = answer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = answer[:head_end].lower()
    at = head.find(_LENGTH)
    if at < 0 or not head.startswith(b"http/1.1 "):
        message = f"not an answer with a length: {answer[:80]!r}"
        raise BadAnswer(message)
    length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
    return int(head[9:12]) if len(answer) >= head_end + 4 + length else None

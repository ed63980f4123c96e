"""Loopback ports that stay ours while nothing listens on them: a gateway that was killed starts again on the same."""

import socket


class ReservedPort:
    """A port that is bound and never listened on, until `close`.

    Who sets SO_REUSEADDR, as every server does, can listen on it all the same; the kernel gives it to nobody who asks
    for any free port, and connecting to it is refused as long as no server listens.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

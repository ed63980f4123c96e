"""Between a socket and the HTTP parser: reads no more at once than the connection may hold.

Event loops read up to 256 KB from a socket at once, before anybody has looked whether there is memory for it. A
`BufferedProtocol` is asked for a buffer first, so here the connection's own state decides: a client that nothing is
reserved for is read in small steps, and waits in TCP.
"""

import asyncio
from typing import Protocol


class Room(Protocol):
    """Memory that what comes is read into, past the protocol."""

    @property
    def room(self) -> memoryview:
        """Where to read to next; not empty."""
        ...

    def add(self, byte_count: int) -> None:
        """So much was read."""
        ...


class Reading(Protocol):
    """The protocol behind the doorway."""

    @property
    def filling(self) -> Room | None:
        """What the next bytes belong into, if not to the protocol."""
        ...

    @property
    def read_bytes(self) -> int:
        """How much may be read at once now; at most `READ_MOST`."""
        ...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        ...

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection ended."""
        ...

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        ...

    def eof_received(self) -> None:
        """The client will send no more."""
        ...

    def pause_writing(self) -> None:
        """The client takes in less than is written."""
        ...

    def resume_writing(self) -> None:
        """It takes more again."""
        ...


READ_MOST = 256 * 1024
_room = memoryview(bytearray(READ_MOST))
"""What sockets are read into: an event loop reads one at a time, and what came is copied out at once."""


class Doorway(asyncio.BufferedProtocol):
    """Passes everything on to the protocol behind it."""

    __slots__ = ("_behind",)

    def __init__(self, behind: Reading) -> None:
        self._behind = behind

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to read to, and thereby how much."""
        filling = self._behind.filling
        return _room[: self._behind.read_bytes] if filling is None else filling.room

    def buffer_updated(self, nbytes: int) -> None:
        """So much came."""
        filling = self._behind.filling
        if filling is None:
            self._behind.data_received(bytes(_room[:nbytes]))
        else:
            filling.add(nbytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._behind.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._behind.connection_lost(exc)

    def eof_received(self) -> None:
        """The client sends nothing more."""
        self._behind.eof_received()

    def pause_writing(self) -> None:
        """The client takes nothing more for now."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._behind.resume_writing()

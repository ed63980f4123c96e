"""The lines of an NDJSON body, each as a body of its own, whatever its length."""

from collections.abc import AsyncIterator
from typing import Protocol

from gateway.intake.body import Body
from gateway.intake.budget import SMALL_POST_BYTES
from gateway.intake.refusals import Refusal, too_large
from gateway.intake.staging import Staged, StagedFile, StagingArea
from gateway.intake.workers import Workers
from spool.errors import SpoolError

LINE_BYTES = 1 << 20
"""A longer line is staged."""
_BLANK = b" \t\r"

Line = Body | Exception | None
"""A line's body; or why this line cannot be taken, while the others can; or None for a blank one."""


class Pieces(Protocol):
    """Where the bytes come from: the connection, or a body that is complete."""

    async def next(self) -> bytes | memoryview:
        """The next piece; empty at the end."""
        ...


class Complete:
    """The pieces of a body that is there in full."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)

    async def next(self) -> memoryview:
        """The next 64 KiB."""
        piece, self._data = self._data[:SMALL_POST_BYTES], self._data[SMALL_POST_BYTES:]
        return piece


class LineReader:
    """Cuts pieces into lines. For the event loop."""

    def __init__(self, line_max: int | None, staging: StagingArea, workers: Workers) -> None:
        self._line_max = line_max
        self._staging = staging
        self._workers = workers

    async def lines(self, pieces: Pieces) -> AsyncIterator[Line]:
        """Every line without its end; the caller releases the bodies. Raises what `pieces` raises."""
        line = _GrowingLine(self._line_max, self._staging, self._workers)
        try:
            while piece := bytes(await pieces.next()):
                start = 0
                while (end := piece.find(b"\n", start)) >= 0:
                    await line.add(piece[start:end])
                    yield await line.finish()
                    start = end + 1
                await line.add(piece[start:])
            if not line.empty:
                yield await line.finish()
        finally:
            line.drop()


class _GrowingLine:
    """The line that is being read."""

    def __init__(self, line_max: int | None, staging: StagingArea, workers: Workers) -> None:
        self._line_max = line_max
        self._staging = staging
        self._workers = workers
        self._size = 0
        self._data = bytearray()
        self._staged: Staged | None = None
        self._file: StagedFile | None = None
        self._failure: Exception | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing of it came yet."""
        return not self._size

    async def add(self, data: bytes) -> None:
        """Append a part of the line. One that cannot be taken is not kept, only read to its end."""
        self._size += len(data)
        if self._failure is not None:
            return
        self._data += data
        try:
            if self._line_max is not None and self._size > self._line_max:
                raise too_large(self._line_max)
            if len(self._data) > LINE_BYTES:
                await self._write()
        except (Refusal, SpoolError, OSError) as error:
            self.drop()
            self._failure = error

    async def finish(self) -> Line:
        """The line; the next one begins."""
        try:
            return self._failure or await self._body()
        except (SpoolError, OSError) as error:
            self.drop()
            return error
        finally:
            self._begin()

    def drop(self) -> None:
        """Keep nothing of the line that is being read."""
        self._data = bytearray()
        if self._staged is not None:
            self._staged.discard()
            self._staged = None

    def _begin(self) -> None:
        self._size = 0
        self._data = bytearray()
        self._staged = self._file = self._failure = None

    async def _body(self) -> Body | None:
        if self._file is not None:
            await self._write()
            return Body(await self._workers.run(self._file.map), None, self._staged, self._file)
        if not self._data.strip(_BLANK):
            return None
        return Body(bytes(self._data), None, self._staging.begin() if self._size > SMALL_POST_BYTES else None)

    async def _write(self) -> None:
        if self._staged is None or self._file is None:
            self._staged = self._staging.begin()
            self._file = await self._workers.run(self._staged.file)
        await self._workers.run(self._file.write, self._data)
        self._data = bytearray()

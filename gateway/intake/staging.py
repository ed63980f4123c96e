"""Staging: bodies that must not be held in memory spill to files beside the spool.

A staged body is written as it comes in, then mapped, so that only the pages that are read are in memory. The file is
removed when the post is done; one that a killed process left is removed at the next start. Nothing here is synced:
a staged body is not acknowledged before the spool has its own durable copy. Spilled bytes count in the spool's quota.
"""

import asyncio
import contextlib
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from gateway.intake.ports import RecordStore
from spool.directory import STAGING_NAME
from spool.errors import NO_ROOM, SpoolFull, SpoolUnavailable
from spool.records import Buffer

# Threads for work that would block the event loop: decoding, parsing and hashing large bodies, and staging files.

_log = structlog.get_logger(__name__)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Workers:
    """Runs functions in the threads of an executor, which its owner shuts down. Constructed on the event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.current_thread()

    async def run(
        self, function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
    ) -> Result:
        """The function's result. Cancelling this does not stop a function that runs already."""
        return await asyncio.wrap_future(self._executor.submit(function, *arguments, **keywords))

    def start(self, function: Callable[[], None]) -> None:
        """Run the function in the background; a failure is logged."""
        self._executor.submit(function).add_done_callback(_report)

    def ask_loop(self, function: Callable[[], Result]) -> Result:
        """In a worker thread: have the event loop call the function, and wait for what it returns or raises."""
        assert threading.current_thread() is not self._loop_thread, "the loop cannot wait for itself"
        answer: Future[Result] = Future()

        def call() -> None:
            """In the loop's thread: call it, and pass on its result."""
            try:
                answer.set_result(function())
            except Exception as error:  # noqa: BLE001  # raised again in the thread that asked
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return answer.result()

    def await_loop(self, function: Callable[[], Coroutine[object, object, Result]]) -> Result:
        """In a worker thread: have the event loop run the coroutine, and wait for what it returns or raises."""
        assert threading.current_thread() is not self._loop_thread, "the loop cannot wait for itself"
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result()


def _report(future: "Future[None]") -> None:
    if not future.cancelled() and (error := future.exception()):
        _log.error("background work failed", exc_info=error)


_SUFFIX = ".staged"
_CLAIM_BYTES = 4 << 20
"""How much of the quota is claimed at a time at most while a file grows."""


class StagedFile:
    """One file being filled, then mapped. Its methods block on the disk: call them in a worker thread.

    Closing waits for a write that is under way: the number of a closed file may be another file's at once.
    """

    def __init__(self, staged: "Staged", path: Path) -> None:
        self._staged = staged
        self.path = path
        self._lock = threading.Lock()
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._maps: list[mmap.mmap] = []
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Append `data`. Raises `SpoolFull` beyond the quota, `OSError` when the disk is full or broken."""
        self._staged.need(len(data))
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[os.write(self._open_file(), view) :]
        self.size += len(data)

    def map(self) -> memoryview:
        """Everything written so far, read-only; valid after `close`, too, as long as it is referenced."""
        with self._lock:
            if not self.size:
                return memoryview(b"")
            mapped = mmap.mmap(self._open_file(), self.size, access=mmap.ACCESS_READ)
            self._maps.append(mapped)
            return memoryview(mapped)

    def allocate(self, size: int) -> None:
        """Make a new file exactly `size` bytes long. Raises as `write` does."""
        self._staged.need(size)
        with self._lock:
            os.posix_fallocate(self._open_file(), 0, size)
        self.size = size

    def map_writable(self) -> mmap.mmap:
        """A map of the file through which it is filled."""
        with self._lock:
            return mmap.mmap(self._open_file(), self.size)

    def close(self) -> None:
        """Remove the file; harmless when repeated. Maps of it stay valid as long as they are referenced.

        Unreferenced maps are closed here, because unmapping 1 GB takes 100 ms in whichever thread does it.
        """
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
                self.path.unlink(missing_ok=True)
            for mapped in self._maps:
                with contextlib.suppress(BufferError):
                    mapped.close()
            self._maps.clear()

    def _open_file(self) -> int:
        if self._file is None:
            raise ValueError("the staging file was closed: its post was cancelled")
        return self._file


class Staged:
    """The staging files of one post, and the part of the quota that they take."""

    __slots__ = ("_area", "_claimed", "_expected", "_files", "_needed")

    def __init__(self, area: "StagingArea") -> None:
        self._area = area
        self._claimed = 0
        self._expected = 0
        self._needed = 0
        self._files: list[StagedFile] = []

    def claim(self, size: int) -> None:
        """Claim `size` bytes for what is about to come. For the event loop. Raises `SpoolFull`."""
        try:
            self._area.store.reserve_staging(size)
        except SpoolFull as full:
            full.staged_bytes = self._claimed + size
            raise
        self._claimed += size

    async def expect(self, size: int) -> None:
        """A body of `size` bytes is announced: see whether there is room for it, or room can be made.

        For the event loop. Raises `SpoolFull`. No room is made or claimed for what was only announced.
        """
        try:
            self.claim(size)
        except SpoolFull:
            if not await self._area.store.can_make_staging_room(size):
                raise
            self._expected = size
        else:
            self._area.store.release_staging(size)
            self._claimed -= size

    def need(self, size: int) -> None:
        """Make sure that `size` more bytes are claimed, for they came. For worker threads, one at a time.

        Raises `SpoolFull`.
        """
        self._needed += size
        missing = self._needed - self._claimed
        if missing <= 0:
            return
        try:
            self._area.workers.ask_loop(lambda: self._claim_ahead(missing))
        except SpoolFull:
            rest = self._expected - self._needed
            if rest < 0:  # nobody said how much there will be, so no room can be known to suffice
                raise
            self._area.workers.await_loop(lambda: self._area.store.make_staging_room(missing, rest))
            self._area.workers.ask_loop(lambda: self.claim(missing))

    def _claim_ahead(self, missing: int) -> None:
        """Claim as much as came so far, if there is room, so that the event loop is asked less often."""
        try:
            self.claim(max(missing, min(self._claimed, _CLAIM_BYTES)))
        except SpoolFull:
            self.claim(missing)

    @property
    def claimed_bytes(self) -> int:
        """What is claimed of the quota."""
        return self._claimed

    def file(self) -> StagedFile:
        """A new, empty file that only this process's user can read. For worker threads.

        Raises `OSError` where the disk has no room for it, `SpoolUnavailable` where the directory cannot be used.
        """
        path = self._area.directory / f"{secrets.token_hex(8)}{_SUFFIX}"
        try:
            file = StagedFile(self, path)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            if (obstacle := self._area.obstacle()) is not None:
                raise SpoolUnavailable(obstacle) from error
            file = StagedFile(self, path)
        self._files.append(file)
        return file

    def new_file(self, size: int) -> StagedFile:
        """A new file of `size` bytes. For worker threads. Raises as `StagedFile.write` does."""
        file = self.file()
        file.allocate(size)
        return file

    def scratch(self, size: int) -> mmap.mmap:
        """A writable buffer in a new file, for a changed copy of the body. For worker threads."""
        return self.new_file(size).map_writable()

    def discard(self) -> None:
        """Remove the files in a worker thread, because a large one takes its time, and give the quota back.

        For the event loop. The thread starts in the loop's next iteration, when the caller has dropped its views.
        """
        if self._files:
            files, self._files = self._files, []
            asyncio.get_running_loop().call_soon(self._area.workers.start, lambda: _close_all(files))
        if self._claimed:
            self._area.store.release_staging(self._claimed)
            self._claimed = 0


class StagingArea:
    """The directory for staging files, and the quota that they count in."""

    def __init__(self, directory: Path, store: RecordStore, workers: Workers) -> None:
        self.directory = directory
        self.store = store
        self.workers = workers

    def begin(self) -> Staged:
        """The staging files of a new post: none, until it makes some."""
        return Staged(self)

    def obstacle(self) -> str | None:
        """Why nothing can be staged at the moment, if so. A directory that was removed is made again.

        Blocks on the disk. Without staging no call log can be accepted that is too large for memory.
        """
        try:
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            is_own = self.directory.is_dir() and not self.directory.is_symlink()
            usable = is_own and os.access(self.directory, os.W_OK | os.X_OK)
            return None if usable else f"the staging directory {self.directory} is no directory that can be written to"
        except OSError as error:
            return f"the staging directory {self.directory} cannot be made again: {error.strerror}"
        _log.warning("staging_directory_made_again", directory=str(self.directory))
        return None


def prepare_directory(spool_directory: Path) -> Path:
    """Make the staging directory of a spool, empty it of what a killed process left, and return its path.

    Nothing is removed through a link that stands in its place. Raises `OSError`.
    """
    directory = spool_directory / STAGING_NAME
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as entries:
            leftovers = [entry.name for entry in entries if entry.name.endswith(_SUFFIX)]
        for name in leftovers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    return directory


def _close_all(files: Iterable[StagedFile]) -> None:
    for file in files:
        file.close()

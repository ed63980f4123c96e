"""Staging: bodies that must not be held in memory spill to files beside the spool.

A staged body is written as it comes in, then mapped, so that only the pages that are read are in memory. The file is
removed when the post is done; one that a killed process left is removed at the next start. Nothing here is synced:
a staged body is not acknowledged before the spool has its own durable copy. Spilled bytes count in the spool's quota.

Where the spool has a key, a body is encrypted while it comes in, under a key that is in this process's memory alone
(`spool.payload.sealed_file`). What is mapped is plain: it lies in memory, within the budget, or, where that has no room
for it, in a file without a name, which is gone when this process ends, in whatever way.
"""

import asyncio
import contextlib
import mmap
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from gateway.intake.ports import HeldMemory, StagingQuota, TryReserve
from spool.directory import STAGING_NAME
from spool.errors import NO_ROOM, SpoolFull, SpoolUnavailable
from spool.payload.sealed_file import SealedFile
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
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_CLAIM_BYTES = 4 << 20
"""How much of the quota is claimed at a time at most while a file grows."""


class StagedFile:
    """One file being filled, then mapped. Its methods block on the disk: call them in a worker thread.

    Closing waits for a write that is under way: the number of a closed file may be another file's at once.
    """

    def __init__(
        self, staged: "Staged", descriptor: int, path: Path | None, *, sealed: bool = False, in_memory: bool = False
    ) -> None:
        self._staged = staged
        self._lock = threading.Lock()
        self._file: int | None = descriptor
        self._path = path
        """Its name, if it has one."""
        self._sealed = SealedFile(descriptor) if sealed else None
        """What encrypts it, until it is mapped."""
        self.in_memory = in_memory
        """Whether it takes memory and no disk."""
        self._has_memory = in_memory
        self._maps: list[mmap.mmap] = []
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Append `data`. Raises `SpoolFull` beyond the quota, `OSError` when the disk is full or broken."""
        self._staged.need(len(data))
        with self._lock:
            descriptor, view = self._open_file(), memoryview(data)
            if self._sealed is not None:
                self._sealed.write(view)
            else:
                while view:
                    view = view[os.write(descriptor, view) :]
        self.size += len(data)

    def map(self) -> memoryview:
        """Everything written so far, read-only; valid after `close`, too, as long as it is referenced.

        Nothing can be written any more. Raises `OSError`, and `SpoolUnavailable` where somebody changed the file.
        """
        with self._lock:
            if not self.size:
                return memoryview(b"")
            mapped = mmap.mmap(self._plain_file(), self.size, access=mmap.ACCESS_READ)
            self._maps.append(mapped)
            return memoryview(mapped)

    def allocate(self, size: int) -> None:
        """Make a new file exactly `size` bytes long. Raises as `write` does."""
        self._staged.need(size)
        with self._lock:
            os.posix_fallocate(self._open_file(), 0, size)
        self.size = size

    def hold(self, memory: HeldMemory) -> None:
        """Decrypt it into this memory, which is released with it. For the event loop, before it is mapped."""
        self._has_memory = True
        self._staged.hold(memory)

    def descriptor(self) -> int:
        """Of what `map` maps, for another process; valid until `close`. Raises as `map` does."""
        with self._lock:
            return self._plain_file()

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
                self._remove()
                self._file = None
            for mapped in self._maps:
                with contextlib.suppress(BufferError):
                    mapped.close()
            self._maps.clear()

    def _open_file(self) -> int:
        if self._file is None:
            raise ValueError("the staging file was closed: its post was cancelled")
        return self._file

    def _plain_file(self) -> int:
        """The file, decrypted into another one if need be."""
        if self._sealed is None or not self.size:
            return self._open_file()
        self._open_file()
        has_memory = self._has_memory or self._staged.hold_for(self.size)
        plain, in_memory = self._staged.open_unnamed(in_memory=has_memory)
        try:
            self._sealed.open_into(plain)
        except BaseException:
            os.close(plain)
            raise
        self._remove()
        self._file, self._path, self._sealed, self.in_memory = plain, None, None, in_memory
        return plain

    def _remove(self) -> None:
        os.close(self._open_file())
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Staged:
    """The staging files of one post, and the part of the quota that they take."""

    __slots__ = ("_area", "_claimed", "_discarded", "_expected", "_files", "_memory", "_needed")

    def __init__(self, area: "StagingArea") -> None:
        self._area = area
        self._claimed = 0
        self._expected = 0
        self._needed = 0
        self._files: list[StagedFile] = []
        self._memory: list[HeldMemory] = []
        """For what is decrypted."""
        self._discarded = False

    def claim(self, size: int) -> None:
        """Claim `size` bytes for what is about to come. For the event loop. Raises `SpoolFull`."""
        if self._discarded:  # a thread was under way: nobody would give the bytes back
            raise ValueError("the staging files were discarded: their post was cancelled")
        try:
            self._area.quota.reserve_staging(size)
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
            if not await self._area.quota.can_make_staging_room(size):
                raise
            self._expected = size
        else:
            self._area.quota.release_staging(size)
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
            self._area.workers.await_loop(lambda: self._area.quota.make_staging_room(missing, rest))
            self._area.workers.ask_loop(lambda: self.claim(missing))

    def _claim_ahead(self, missing: int) -> None:
        """Claim as much as came so far, if there is room, so that the event loop is asked less often."""
        try:
            self.claim(max(missing, min(self._claimed, _CLAIM_BYTES)))
        except SpoolFull:
            self.claim(missing)

    @property
    def encrypts(self) -> bool:
        """Whether the files are encrypted while they are filled."""
        return self._area.encrypts

    @property
    def claimed_bytes(self) -> int:
        """What is claimed of the quota."""
        return self._claimed

    def file(self) -> StagedFile:
        """A new, empty file that only this process's user can read. For worker threads.

        Raises `OSError` where the disk has no room for it, `SpoolUnavailable` where the directory cannot be used.
        """
        path = self._area.directory / f"{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = self._area.open(lambda: os.open(path, _NEW_FILE, 0o600))
        return self._added(StagedFile(self, descriptor, path, sealed=self.encrypts))

    def new_file(self, size: int) -> StagedFile:
        """A new file of `size` bytes, to be mapped and filled. For worker threads. Raises as `write` does."""
        file = self._unnamed(in_memory=self.hold_for(size)) if self.encrypts else self.file()
        file.allocate(size)
        return file

    def copy(self, data: Buffer, *, has_memory: bool) -> StagedFile:
        """A file that holds `data`; in memory where any other had to be encrypted, if memory is held for it.

        For worker threads. Raises as `StagedFile.write` does.
        """
        in_memory = self.encrypts and (has_memory or self.hold_for(len(data)))
        file = self._unnamed(in_memory=in_memory) if self.encrypts else self.file()
        file.write(data)
        return file

    def hold(self, memory: HeldMemory) -> None:
        """Hold this memory until the files are discarded. For the event loop."""
        self._memory.append(memory)

    def hold_for(self, size: int) -> bool:
        """Hold memory for a plain file of `size` bytes, if it is free at this moment. For worker threads."""
        return self._area.workers.ask_loop(lambda: self._hold_for(size))

    def _hold_for(self, size: int) -> bool:
        try_reserve = self._area.try_reserve
        found = None if self._discarded or try_reserve is None else try_reserve(size)
        if found is not None:
            self._memory.append(found)
        return found is not None

    def open_unnamed(self, *, in_memory: bool) -> tuple[int, bool]:
        """A new file that has no name, in memory if that is wanted and can be; for worker threads. Raises as `file`."""
        return self._area.open_unnamed(in_memory=in_memory)

    def _unnamed(self, *, in_memory: bool) -> StagedFile:
        descriptor, in_memory = self._area.open_unnamed(in_memory=in_memory)
        return self._added(StagedFile(self, descriptor, None, in_memory=in_memory))

    def _added(self, file: StagedFile) -> StagedFile:
        """Keep it to be removed; at once where the post was cancelled while a thread made it."""
        self._files.append(file)
        if self._discarded:
            file.close()
        return file

    def scratch(self, size: int) -> mmap.mmap:
        """A writable buffer in a new file, for a changed copy of the body. For worker threads."""
        return self.new_file(size).map_writable()

    def discard(self) -> None:
        """Remove the files in a worker thread, because a large one takes its time, and give the quota back.

        For the event loop. The thread starts in the loop's next iteration, when the caller has dropped its views.
        """
        self._discarded = True
        if self._files:
            files, self._files = self._files, []
            asyncio.get_running_loop().call_soon(self._area.workers.start, lambda: _close_all(files))
        if self._claimed:
            self._area.quota.release_staging(self._claimed)
            self._claimed = 0
        while self._memory:
            self._memory.pop().release()


class StagingArea:
    """The directory for staging files, and the quota that they count in."""

    def __init__(
        self, directory: Path, quota: StagingQuota, workers: Workers, encrypted_within: TryReserve | None = None
    ) -> None:
        """Where there is memory to decrypt them into, files are encrypted."""
        self.directory = directory
        self.quota = quota
        self.workers = workers
        self.try_reserve = encrypted_within
        self.encrypts = encrypted_within is not None

    def begin(self) -> Staged:
        """The staging files of a new post: none, until it makes some."""
        return Staged(self)

    def open(self, how: Callable[[], int]) -> int:
        """Open a file in the directory, which is made again if need be. For worker threads.

        Raises `OSError` where the disk has no room for it, `SpoolUnavailable` where the directory cannot be used.
        """
        try:
            return how()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            if (obstacle := self.obstacle()) is not None:
                raise SpoolUnavailable(obstacle) from error
            return how()

    def open_unnamed(self, *, in_memory: bool) -> tuple[int, bool]:
        """A file without a name, and whether it is in memory, which not every system has. Raises as `open`."""
        if in_memory and sys.platform == "linux":
            with contextlib.suppress(OSError):
                return os.memfd_create("callspool", os.MFD_CLOEXEC), True
        return self.open(self._unnamed), False

    def _unnamed(self) -> int:
        with tempfile.TemporaryFile(dir=self.directory, buffering=0) as file:
            return os.dup(file.fileno())

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

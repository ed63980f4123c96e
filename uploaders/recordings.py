"""Where recordings are kept: each under a name of its own, whole and durable before it can be found under it.

A recording comes as a stream of unknown length, and one that is kept again replaces what has its name. The bucket is in
`uploaders.s3.uploader`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import ParamSpec, Protocol, TypeVar

from uploaders.base import OF_NOBODY, CallToErase, Erased, RetryLater, Scope
from uploaders.durable_file import DurableFile, is_kept, remove_files, safe_name
from uploaders.tasks import in_thread

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


RecordingOwners = Mapping[str, str]
"""Sources that bring the calls of one tenant, and whose."""
NO_OWNERS: RecordingOwners = MappingProxyType({})


class NotKept(Exception):
    """A recording could not be kept now; `outcome` says why."""

    def __init__(self, outcome: RetryLater) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class RecordingStore(Protocol):
    """Keeps recordings. For the event loop; every method raises `NotKept`."""

    async def find(self, name: str) -> str | None:
        """The address of the recording of this name, if it is there."""

    async def put(self, name: str, content_type: str, chunks: AsyncIterator[bytes]) -> str:
        """Keep a recording, and return its address. Raises what `chunks` raises, too, and then nothing is kept.

        `name` is a path of safe names, DATE/SOURCE/CALL_ID/NAME; `content_type` is that of the audio.
        """

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """See `uploaders.base.Eraser`: the recordings of these calls."""

    async def close(self) -> None:
        """Close its connections."""


class DirectoryRecordings:
    """Keeps them as files below a directory."""

    def __init__(self, directory: Path, owners: RecordingOwners = NO_OWNERS) -> None:
        self._directory = directory
        self._owners = owners

    async def find(self, name: str) -> str | None:
        """See `RecordingStore`."""
        path = self._directory / name
        return path.as_uri() if await _written(is_kept, self._directory, path) else None

    async def put(self, name: str, content_type: str, chunks: AsyncIterator[bytes]) -> str:  # noqa: ARG002  # a file has none
        """See `RecordingStore`."""
        path = self._directory / name
        file = DurableFile(self._directory, path)
        try:
            await _written(file.open)
            async for chunk in chunks:
                await _written(file.write, chunk)
            await _written(file.commit)
        finally:
            await in_thread(file.discard)
        return path.as_uri()

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """See `RecordingStore`."""
        wanted = {safe_name(call.call_id): call for call in calls}

        def belongs(path: Path) -> bool | None:
            return wanted[path.parent.name].is_of(self._owners.get(path.parent.parent.name))

        def remove() -> tuple[int, int]:
            sources = sorted(self._directory.glob("????-??-??/*"))
            return remove_files((source / name for source in sources for name in wanted), belongs, dry_run=dry_run)

        try:
            count, unclear = await asyncio.to_thread(remove)
        except OSError as error:
            return Erased(0, f"{error.filename or self._directory}: {error.strerror}", again=True)
        return Erased(count, OF_NOBODY.format(f"{unclear} recordings") if unclear else None)

    async def close(self) -> None:
        """See `RecordingStore`."""


class RecordingsBySource:
    """Keeps the recordings of some sources in stores of their own, as of a tenant that has a bucket, and all others in
    a shared one, if there is one."""

    def __init__(self, shared: RecordingStore | None, own: Mapping[str, RecordingStore]) -> None:
        self._shared = shared
        self._own = own

    async def find(self, name: str) -> str | None:
        """See `RecordingStore`."""
        return await self._store_of(name).find(name)

    async def put(self, name: str, content_type: str, chunks: AsyncIterator[bytes]) -> str:
        """See `RecordingStore`."""
        return await self._store_of(name).put(name, content_type, chunks)

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """See `RecordingStore`: in every store."""
        erased = [await store.erase(calls, dry_run=dry_run) for store in self._stores]
        unreached = "; ".join(each.unreached for each in erased if each.unreached is not None)
        return Erased(sum(each.count for each in erased), unreached or None, any(each.again for each in erased))

    async def close(self) -> None:
        """See `RecordingStore`."""
        for store in self._stores:
            await store.close()

    @property
    def _stores(self) -> list[RecordingStore]:
        shared = [] if self._shared is None else [self._shared]
        return [*shared, *dict.fromkeys(self._own.values())]

    def _store_of(self, name: str) -> RecordingStore:
        source = PurePosixPath(name).parts[1]
        store = self._own.get(source, self._shared)
        if store is None:
            reason = f"recordings of the source {source} have no place: set webhooks.recordings, or add a bucket"
            raise NotKept(RetryLater(reason, Scope.DESTINATION))
        return store


async def _written(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    try:
        return await in_thread(function, *arguments, **keywords)
    except OSError as error:
        reason = f"the recording cannot be written: {error.strerror or error}"
        raise NotKept(RetryLater(reason, Scope.DESTINATION)) from error

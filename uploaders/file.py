"""Delivers into a directory: one file for each form of a record.

    DATE/CALL_ID/EVENT-UID.json               a whole
    DATE/CALL_ID/EVENT-UID.core.json          a core
    DATE/CALL_ID/EVENT-UID.detail.json.zst    a detail: the stored frames as they are

DATE is the day (UTC) on which the record was accepted, ids are made safe for file names. A file appears whole and
durable or not at all; delivering again replaces it by the same bytes. A notice has no place here and is refused.
"""

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from spool.payload.frames import decode, encode
from spool.records import NAME_ENDINGS, OBJECT_FORMS, Delivery, Form
from uploaders.base import OF_NOBODY, CallToErase, Delivered, Erased, Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.render import render
from uploaders.durable_file import DurableFile, commit_all, remove_files, safe_name
from uploaders.rate_limit import UNLIMITED, Bandwidth, paced
from uploaders.tasks import in_thread

_RECORD: Final = re.compile(r"-([0-9a-f]{8}-[0-9]+)(?:\.[a-z]+){1,3}$")
"""The record at the end of a file's name (`path_of`)."""


class FileUploader:
    """Delivers into `directory`, which is made when the first delivery comes."""

    batch_size = 16
    """One file alone costs four fsyncs, for itself and three directories; of 16 files each costs just over two."""

    def __init__(self, directory: Path, payloads: PayloadReader, bandwidth: Bandwidth = UNLIMITED) -> None:
        self._directory = directory
        self._payloads = payloads
        self._bandwidth = bandwidth

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Write one file."""
        return (await self.deliver_many((delivery,)))[0]

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> tuple[Outcome, ...]:
        """Write a file for each; directories that they share are flushed once.

        A full or failing disk is the destination's fault: everything for it waits.
        """
        written: Outcome = Delivered()
        try:
            await self._write([delivery for delivery in deliveries if delivery.form in OBJECT_FORMS])
        except OSError as error:
            reason = error.strerror or type(error).__name__
            written = RetryLater(f"cannot write into {self._directory}: {reason}", Scope.DESTINATION)
        return tuple(
            written
            if delivery.form in OBJECT_FORMS
            else Refused(f"a directory does not accept the form {delivery.form}")
            for delivery in deliveries
        )

    async def close(self) -> None:
        """Nothing is kept open between deliveries."""

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """See `uploaders.base.Eraser`."""
        wanted = {safe_name(call.call_id): call for call in calls}

        def belongs(path: Path) -> bool | None:
            record = _RECORD.search(path.name)
            return wanted[path.parent.name].has(record[1] if record else None)

        def remove() -> tuple[int, int]:
            days = sorted(self._directory.glob("????-??-??"))
            return remove_files((day / name for day in days for name in wanted), belongs, dry_run=dry_run)

        try:
            count, unclear = await in_thread(remove)
        except OSError as error:
            return Erased(0, f"{error.filename or self._directory}: {error.strerror}", again=True)
        return Erased(count, OF_NOBODY.format(f"{unclear} files") if unclear else None)

    async def _write(self, deliveries: Sequence[Delivery]) -> None:
        files: list[DurableFile] = []
        try:
            for delivery in deliveries:
                file = DurableFile(self._directory, self._directory / path_of(delivery))
                files.append(file)
                await in_thread(file.open)
                async for part in self._parts(delivery):
                    async for some in paced(part, self._bandwidth.pace(delivery.lane)):
                        await in_thread(file.write, some)
            await in_thread(commit_all, files)
        finally:
            for file in files:
                file.discard()

    async def _parts(self, delivery: Delivery) -> AsyncIterator[bytes]:
        """The content in parts of at most one frame."""
        compressed = delivery.form is Form.DETAIL
        for piece in render(delivery):
            if isinstance(piece, bytes):
                yield encode(piece) if compressed else piece
                continue
            async for frame in self._payloads.frames(delivery.record, piece):
                yield frame if compressed else await in_thread(decode, frame)


def path_of(delivery: Delivery) -> Path:
    """Where a delivery's file lies, below the destination's directory."""
    record = delivery.record
    day = datetime.fromtimestamp(record.accepted_at / 1000, UTC).date().isoformat()
    encoding = ".zst" if delivery.form is Form.DETAIL else ""
    name = f"{safe_name(record.event)}-{safe_name(record.uid)}{NAME_ENDINGS[delivery.form]}.json{encoding}"
    return Path(day, safe_name(record.call_id), name)

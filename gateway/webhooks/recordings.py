"""Recordings that come inside of webhooks: base64 audio becomes a file of its own, and the call log refers to it.

An hour of speech is 38 to 77 MB, so nothing of it is built in memory: the body is mapped, decoded piece by piece, and
the file is durable before the call log is.
"""

import base64
import binascii
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from gateway.calllog.errors import CallLogError
from gateway.calllog.toplevel import BYTE_ORDER_MARK, scan
from gateway.webhooks.adapters import Event
from spool.records import Buffer, Clock
from uploaders.durable_file import DurableFile
from uploaders.safe_names import safe_name

_log = structlog.get_logger(__name__)

_STEP = 4 << 18
"""Characters of base64 that are decoded at once: a multiple of four."""


class Recordings:
    """Keeps audio below a directory, as DATE/CALL_ID/NAME.mp3. Its methods block: for worker threads."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    def keep(self, event: Event, body: Buffer) -> tuple[Event, bytes] | None:
        """The event with the address of its recording, and the original with null in place of the audio.

        None where there is no base64 text at `event.audio_at`: the call log then keeps everything. Raises `OSError`.
        """
        view = memoryview(body)
        place = _find(view, event.audio_at)
        if place is None or event.call_id is None:
            return None
        start, end = place
        day = datetime.fromtimestamp(self._clock() / 1000, UTC).date().isoformat()
        name = safe_name(event.key or event.call_id)
        path = self._directory / day / safe_name(event.call_id) / f"{name}.mp3"
        file = DurableFile(self._directory, path)
        try:
            file.open()
            position = start + 1
            while position < end - 1:
                step = min(position + _STEP, end - 1)
                file.write(base64.b64decode(view[position:step], validate=True))
                position = step
            file.commit()
        except binascii.Error as error:
            _log.warning("recording_not_base64", call_id=event.call_id, reason=str(error))
            return None
        finally:
            file.discard()
        without = bytes(view[:start]) + b"null" + bytes(view[end:])
        members = {**event.members, "recording_url": path.as_uri()}
        return replace(event, members=members), without


def _find(view: memoryview, path: tuple[str, ...]) -> tuple[int, int] | None:
    """From where to where the text value at `path` lies, its quotes included; None where there is none."""
    start, end = len(BYTE_ORDER_MARK) if view[:3] == BYTE_ORDER_MARK else 0, len(view)
    for name in path:
        try:
            top = scan(view[start:end], bytearray)
        except CallLogError:
            return None
        found = [member for member in top.members() if member.name == name]
        if not found or top.nonfinite_numbers:
            return None
        start, end = start + found[-1].value_start, start + found[-1].end
    return (start, end) if bytes(view[start : start + 1]) == b'"' else None

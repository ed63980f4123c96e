"""Taking a row by posting it to the intake of a running gateway, whose answer says that it is durable."""

import mmap
import tempfile
from collections.abc import AsyncIterator, Sequence

import aiohttp
import msgspec

from gateway.intake.calls import ENDED
from gateway.intake.replies import YIELDS_TO
from gateway.intake.tokens import HEADER, usable
from gateway.outbox.errors import RowRefused, TakingLater
from gateway.outbox.restoring import Restored, restore
from gateway.outbox.rows import Outcome, Row
from gateway.outbox.taking import Copy
from gateway.outbox.threads import in_thread
from spool.records import Buffer

_WRITE_BYTES = 256 << 10
_ACCEPTED = 202
_REFUSED = {400, 413, 422}
"""What is wrong with this call log alone; any other answer speaks of the gateway."""


class _Error(msgspec.Struct):
    """Why a call log was refused."""

    message: str = ""
    hint: str = ""


class _Answer(msgspec.Struct):
    """What the intake answers, as far as it matters here."""

    duplicate: bool = False
    superseded: bool = False
    error: _Error = msgspec.field(default_factory=_Error)


class PostTaker:
    """Takes rows through the intake at `url`. `token` is the intake's own, `key` the agent's for rows without one."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, token: str | None, key: str | None) -> None:
        self._session = session
        self._url = url
        self._token = token
        self._key = key

    async def take(self, row: Row, copy: Copy) -> Outcome:
        """See `gateway.outbox.taking.Taker`."""
        restored = await in_thread(_restored, row, copy)
        try:
            async with self._session.post(
                self._url, data=_sent(restored.pieces), headers=self._headers(restored)
            ) as response:
                return _outcome(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TakingLater(f"the gateway did not answer: {error or type(error).__name__}") from error

    def _headers(self, restored: Restored) -> dict[str, str]:
        """Credentials, length, and whether it yields to a full end."""
        size = sum(len(memoryview(piece)) for piece in restored.pieces)
        headers = {"Content-Type": "application/json", "Content-Length": str(size)}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if key := usable(restored.key) or self._key:
            headers[HEADER] = key
        if restored.partial:
            headers[YIELDS_TO] = ENDED
        return headers


def _restored(row: Row, copy: Copy) -> Restored:
    """The call log of a row; a large payload is mapped from a file that is gone when nobody looks at it any more."""
    if row.payload is not None:
        return restore(row.payload)
    with tempfile.TemporaryFile() as file:
        copy(row, file.write)
        file.flush()
        return restore(memoryview(mmap.mmap(file.fileno(), row.size, access=mmap.ACCESS_READ)))


async def _sent(pieces: Sequence[Buffer]) -> AsyncIterator[bytes]:
    """The pieces, cut so small that few bytes of a large row are copied at a time."""
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _WRITE_BYTES):
            yield bytes(view[start : start + _WRITE_BYTES])


def _outcome(status: int, body: bytes) -> Outcome:
    """What an answer means for its row; raises what `take` raises."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise TakingLater(f"what answers there is no callspool (HTTP {status})") from None
    if status == _ACCEPTED:
        if answer.duplicate:
            return Outcome.DUPLICATE
        return Outcome.SUPERSEDED if answer.superseded else Outcome.RESCUED
    if status in _REFUSED:
        raise RowRefused(answer.error.message)
    raise TakingLater(f"{answer.error.message} {answer.error.hint}")

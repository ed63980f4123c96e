"""Recordings: audio that comes inside of a webhook, and audio behind an address that expires, become objects of ours.

An hour of speech is 38 to 77 MB of base64, so nothing of it is built in memory: the body is mapped, decoded piece by
piece into a file or a bucket, and durable there before the call log is. What lies behind an address is fetched by a
delivery like any other, with its retries and its dead letter: `RecordingCopier`.
"""

import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import msgspec
import structlog

from gateway.calllog.errors import CallLogError
from gateway.calllog.toplevel import scan
from gateway.intake.accept import Acceptor, Arrival, Owner, erased
from gateway.intake.body_reader import BodyReader
from gateway.intake.generated import NotAccepted, accept_generated, name_after
from gateway.intake.memory import BudgetExhausted
from gateway.intake.responses import Rejection
from gateway.intake.staging import Workers
from gateway.webhooks.adapters import RECORDING_READY, Event
from spool.errors import CorruptPayload, SpoolError
from spool.records import Buffer, Clock, Delivery, Record
from uploaders.base import Delivered, Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.encoding import decoded_document
from uploaders.durable_file import safe_name
from uploaders.http.download import Download, Downloader, DownloadFailed
from uploaders.http.pool import received
from uploaders.recordings import NotKept, RecordingStore

_log = structlog.get_logger(__name__)

_STEP: Final = 4 << 18
"""Characters of base64 that are decoded at once: a multiple of four."""


# Audio inside of a webhook.


class InlineAudio:
    """Takes base64 audio out of webhooks, and keeps it. For the event loop."""

    def __init__(self, store: RecordingStore, workers: Workers, clock: Clock) -> None:
        self._store = store
        self._workers = workers
        self._clock = clock

    async def keep(
        self, source: str, event: Event, body: Buffer, is_erased: Callable[[], bool]
    ) -> tuple[Event, bytes] | None:
        """The event with the address of its recording, and the original with null in place of the audio.

        None where there is no base64 text at `event.audio_at`, or it cannot be kept now: the call log then keeps
        everything, since no provider sends audio a second time. Raises `Rejection` (410) once its call is erased.
        """
        if is_erased():  # nobody would find the recording: an erasure takes what was kept before it
            raise erased()
        view = memoryview(body)
        place = await self._workers.run(_find, view, event.audio_at)
        if place is None or event.call_id is None:
            return None
        start, end = place
        name = _named(self._clock(), source, event.call_id, safe_name(event.key or event.call_id), ".mp3")
        try:
            address = await self._store.put(name, "audio/mpeg", self._decoded(view[start + 1 : end - 1], is_erased))
        except (binascii.Error, NotKept) as error:
            _log.warning("recording_stays_in_the_call_log", call_id=event.call_id, reason=str(error))
            return None
        without = await self._workers.run(_without, view, start, end)
        return replace(event, members={**event.members, "recording_url": address}), without

    async def _decoded(self, text: memoryview, is_erased: Callable[[], bool]) -> AsyncIterator[bytes]:
        for start in range(0, len(text), _STEP):
            yield await self._workers.run(base64.b64decode, text[start : start + _STEP], validate=True)
        if is_erased():  # while it was written
            raise erased()


def _find(view: memoryview, path: tuple[str, ...]) -> tuple[int, int] | None:
    """From where to where the text value at `path` lies, its quotes included; None where there is none."""
    start, end = 0, len(view)
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


def _without(view: memoryview, start: int, end: int) -> bytes:
    return bytes(view[:start]) + b"null" + bytes(view[end:])


# Audio behind an address.


class _Source(msgspec.Struct):
    name: str
    provider: str


class _Note(msgspec.Struct):
    """The members of a call log that say where its recording is."""

    recording_url: str
    source: _Source


class _Kept(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The update that says where the recording is now."""

    call_id: str
    wcall_event: str
    agent_id: str | None = None
    environment: str | None = None
    recording_url: str
    recording_type: str | None = None
    source: dict[str, str]


_decode_note = msgspec.json.Decoder(_Note).decode

_SUFFIXES: Final = {
    "audio/flac": ".flac",
    "audio/m4a": ".m4a",
    "audio/mp4": ".m4a",
    "audio/mpeg": ".mp3",
    "audio/mp3": ".mp3",
    "audio/ogg": ".ogg",
    "audio/wav": ".wav",
    "audio/wave": ".wav",
    "audio/webm": ".webm",
    "audio/x-wav": ".wav",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
_KNOWN_SUFFIXES: Final = frozenset(_SUFFIXES.values())
_NO_RECORDINGS: Final = ("text/", "application/json", "application/xml")
"""What servers answer with that have no recording for us: a page to sign in, an error."""
_SIGNED = re.compile(
    r"x-amz-.*|x-goog-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|token|sig|s[eprtv]|sk\w+",
    re.IGNORECASE,
)
"""Parameters of an address that are made anew each time it is given out."""


def can_be_copied(address: object) -> bool:
    """Whether there is something to fetch: what lies in somebody's bucket already has no address of HTTP."""
    if not isinstance(address, str):
        return False
    try:
        received(address)
    except aiohttp.InvalidURL:
        return False
    return True


class RecordingCopier:
    """Fetches the recordings that call logs refer to, and says in an update of the call where each is kept.

    A recording that two events of a call refer to is fetched and announced once. After a kill it is fetched again,
    unless it was kept whole.
    """

    def __init__(
        self, downloader: Downloader, store: RecordingStore, bodies: BodyReader, acceptor: Acceptor,
        payloads: PayloadReader, clock: Clock,
    ) -> None:  # fmt: skip
        self._downloader = downloader
        self._store = store
        self._bodies = bodies
        self._acceptor = acceptor
        self._payloads = payloads
        self._clock = clock

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Keep the recording, then make the update durable; only then is the delivery done. Raises `CorruptPayload`."""
        try:
            return Delivered(await self._copy(delivery))
        except (DownloadFailed, NotKept) as failure:
            return failure.outcome
        except CorruptPayload:  # of this record alone
            raise
        except (msgspec.DecodeError, CallLogError, NotAccepted) as error:
            return Refused(f"the call log names no recording, or no call: {error}")
        except Rejection as error:
            return RetryLater(
                f"the update of the call cannot be accepted now: {error}", after_seconds=error.retry_after
            )
        except (BudgetExhausted, SpoolError, OSError) as error:
            return RetryLater(f"the update of the call cannot be accepted now: {error}", Scope.DESTINATION)

    async def close(self) -> None:
        """Close the connections to where recordings are fetched."""
        await self._downloader.close()

    async def _copy(self, delivery: Delivery) -> str:
        record = delivery.record
        document = decoded_document(delivery, self._payloads.frames)
        with await self._bodies.without_most().read_stream(document) as body:
            note = _decode_note(body.data)
        address, kind = await self._kept(record, note)
        await self._announce(record, note, address, kind)
        return address

    async def _kept(self, record: Record, note: _Note) -> tuple[str, str | None]:
        """Where the recording is kept, and its type, if it was fetched now."""
        url = note.recording_url
        stem, suffix = identity_of(record, url), _suffix_in(url)
        if suffix:
            found = await self._store.find(self._name(record, note, stem, suffix))
            if found is not None:
                return found, None
        async with self._downloader.get(url, now=self._clock()) as download:
            kind = download.content_type
            if kind.startswith(_NO_RECORDINGS):
                reason = f"{urlsplit(url).hostname} answers with {kind[:40]}, which is no recording"
                raise DownloadFailed(RetryLater(reason))
            name = self._name(record, note, stem, suffix or _SUFFIXES.get(kind, ""))
            return await self._store.put(name, kind, _not_empty(download)), kind

    def _name(self, record: Record, note: _Note, stem: str, suffix: str) -> str:
        return _named(record.accepted_at, note.source.name, record.call_id, stem, suffix)

    async def _announce(self, record: Record, note: _Note, address: str, kind: str | None) -> None:
        update = _Kept(
            call_id=record.call_id,
            wcall_event=RECORDING_READY,
            agent_id=record.agent_id,
            environment=record.environment,
            recording_url=address,
            recording_type=kind,
            source={"name": note.source.name, "provider": note.source.provider, "type": "recording_copied"},
        )
        key = None if record.token_id is None else await self._payloads.token(record.token_id)
        owner = Owner(record.tenant, record.principal or "")
        arrival = Arrival(agents_key=key, owner=owner, origin=name_after(identity_of(record, note.recording_url)))
        await accept_generated(update, arrival, self._bodies, self._acceptor)


def identity_of(record: Record, url: str) -> str:
    """The same for every address of one recording of a call, however it is signed; other for every other tenant."""
    parts = urlsplit(url)
    query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if not _SIGNED.fullmatch(name)])
    key = "\0".join(("recording", record.principal or "", record.call_id, parts.netloc, parts.path, query))
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _suffix_in(url: str) -> str:
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return suffix if suffix in _KNOWN_SUFFIXES else ""


def _named(at: int, source: str, call_id: str, stem: str, suffix: str) -> str:
    """A path below the store: DATE/SOURCE/CALL_ID/NAME."""
    day = datetime.fromtimestamp(at / 1000, UTC).date().isoformat()
    return f"{day}/{source}/{safe_name(call_id)}/{stem}{suffix}"


async def _not_empty(download: Download) -> AsyncIterator[bytes]:
    """The chunks of a recording; some providers answer with nothing until they have it."""
    empty = True
    async for chunk in download.chunks:
        empty = False
        yield chunk
    if empty:
        raise DownloadFailed(RetryLater("the recording is empty (so far)"))

"""Delivers to a pipeline: what it needs of a call is read, and goes into the queue of a store. That ends the delivery.

Nothing here asks a model. What is queued of a call is some 20 KB, so that a model that is down for a day leaves a spool
as empty as it was.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import structs

from spool.payload.frames import decode
from spool.records import REQUEST_FORMS, Buffer, Delivery, Form, Fragment
from uploaders.base import Delivered, Outcome, PayloadReader, Refused, RetryLater, Scope
from uploaders.document.body import SpillingBuffer
from uploaders.document.render import BadLocation, render
from uploaders.rate_limit import UNLIMITED, Bandwidth, paced
from uploaders.stores.completion import fields_of
from uploaders.stores.parts import key_text, read_head
from uploaders.stores.pipeline import CallText, NewText
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.store import PartRefused, StoreError, StoreRefused

FORMS: Final = REQUEST_FORMS
BATCH: Final = 100


class PipelineUploader:
    """Queues calls in the tables that `tables` gives, once the store is there; `queued` is called after that."""

    batch_size = BATCH

    def __init__(
        self, tables: Callable[[], PipelineTables], payloads: PayloadReader, queued: Callable[[], None],
        scratch: Path, bandwidth: Bandwidth = UNLIMITED,
    ) -> None:  # fmt: skip
        """`scratch` is a directory for a large call log while it is read."""
        self._scratch = scratch
        self._tables = tables
        self._payloads = payloads
        self._queued = queued
        self._bandwidth = bandwidth

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Queue one call."""
        return (await self.deliver_many([delivery]))[0]

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Queue calls in one transaction; one of which the database refuses a value, alone."""
        texts = []
        outcomes: list[Outcome] = []
        for delivery in deliveries:
            read = await self._read(delivery)
            if isinstance(read, NewText):
                texts.append(read)
                outcomes.append(Delivered())
            else:
                outcomes.append(read)
        try:
            queued = await self._tables().enqueue(texts)
        except PartRefused as error:
            if len(deliveries) == 1:
                return [Refused(str(error))]
            return [await self.deliver(delivery) for delivery in deliveries]
        except StoreRefused as error:
            return [Refused(str(error), Scope.DESTINATION)] * len(deliveries)
        except StoreError as error:
            return [RetryLater(str(error), Scope.DESTINATION)] * len(deliveries)
        if queued:
            self._queued()
        return outcomes

    async def close(self) -> None:
        """Nothing: the store is closed by its own uploader."""

    async def _read(self, delivery: Delivery) -> NewText | Refused | RetryLater:
        """The core has nearly always all that is needed; only the transcript of hours lies in the detail."""
        record = delivery.record
        if delivery.form not in FORMS:
            return Refused(f"a pipeline takes no {delivery.form}")
        text = CallText()
        forms = (Form.CORE, Form.WHOLE) if Fragment.REST in record.fragments else (delivery.form,)
        try:
            for form in forms:
                if not text.turns:
                    text = (await self._text(structs.replace(delivery, form=form))).merged(text)
        except BadLocation as error:
            return Refused(str(error))
        except OSError as error:
            return RetryLater(f"cannot keep a call log in a temporary file: {error.strerror}")
        return NewText(key_text(record.tenant or ""), key_text(record.call_id), record.accepted_at, text)

    async def _text(self, delivery: Delivery) -> CallText:
        """Read from a buffer that spills to a file: a call log may be hundreds of megabytes."""
        copy = SpillingBuffer(self._scratch)
        try:
            for piece in render(delivery):
                if isinstance(piece, bytes):
                    copy.write(piece)
                    continue
                async for frame in self._payloads.frames(delivery.record, piece):
                    await asyncio.to_thread(_copy, frame, copy)
                    async for _ in paced(frame, self._bandwidth.pace(delivery.lane)):
                        pass  # it is read once the last byte of it may
            return await asyncio.to_thread(_read, copy, delivery.record.event)
        finally:
            copy.close()


def _copy(frame: bytes, copy: SpillingBuffer) -> None:
    copy.write(decode(frame))


def _read(copy: SpillingBuffer, event: str) -> CallText:
    """What is read of the view is copied, so that nothing holds on to it."""
    view = copy.view()
    try:
        return read_text(view, event)
    finally:
        view.release()


# What is needed of a call log: who said what, and what its metadata say of the caller. Pure.
#
# Agents, the SDK and providers write transcripts in several forms; what cannot be read as a turn is left out, and a
# value of an unexpected type never makes a call log invalid.

CALLER: Final = "caller"
AGENT: Final = "agent"
_ROLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("user", "caller", "customer", "human", "client", "callee"), CALLER),
    **dict.fromkeys(("assistant", "agent", "bot", "ai", "model"), AGENT),
}
_SPEAKERS: Final = ("role", "speaker", "source")
_WORDS: Final = ("content", "text", "message", "transcript")
_LINE: Final = re.compile(r"^\s*([A-Za-z]+)\s*:\s*(.+)$")
TURN_CHARACTERS: Final = 20_000
TURNS: Final = 5_000
"""More than ten hours of talk."""
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_SLOW_BYTES: Final = 32 << 20
_NAMES: Final = ("customer_name", "caller_name", "user_name")
_SUMMARIES: Final = ("provider_summary", "call_summary")
_HEAD: Final = ("agent_id", "customer_number", "environment", "call_started_at", "call_ended_at", "call_ended_reason")
_TRANSCRIPTS: Final = ("transcript_json", "transcript_with_metrics", "transcript", "messages")
_OTHERS: Final = ("start", "end", "original", "opt_out_sensitive_data_storage")
_WANTED: Final = frozenset((*_HEAD, *_TRANSCRIPTS, *_NAMES, *_SUMMARIES, *_OTHERS))
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode


def read_text(document: Buffer, event: str) -> CallText:
    """What a call log says; an empty text of one that cannot be read."""
    members = _members_of_use(document)
    parts: list[Buffer] = [document]
    if event == "call_complete":
        parts = [bytes(raw) for name in ("end", "start") if (raw := members.get(name)) and raw != b"null"]
    texts = [_read_part(part) for part in parts]
    first = texts[0] if texts else CallText()
    for further in texts[1:]:
        first = first.merged(further)
    return first


def _read_part(document: Buffer) -> CallText:
    members = _members_of_use(document)
    # The head of a large call log is that of its small members: all of it would be copied.
    head = b"{%s}" % b",".join(b'"%s":%s' % (name.encode(), members[name]) for name in _HEAD if name in members)
    fields = fields_of(None, read_head(head))
    return CallText(
        turns=_turns(members),
        provider_summary=next(filter(None, (_text(_value(members, name)) for name in _SUMMARIES)), None),
        number=fields.customer_number,
        names=tuple(name for each in _NAMES if (name := _text(_value(members, each)))),
        agent_id=fields.agent_id,
        started_at=fields.started_at,
        ended_at=fields.ended_at,
        opted_out=_opted_out(members),
    )


def _members_of_use(document: Buffer) -> Mapping[str, bytes]:
    """Those members of an object that are of use, each as JSON; none of what is no object."""
    try:
        return {name: bytes(raw) for name, raw in _members(document).items() if name in _WANTED}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    if len(document) > _SLOW_BYTES:
        return {}
    try:  # lone surrogates, NaN
        values = json.loads(bytes(document))
    except (ValueError, RecursionError):
        return {}
    given = values if isinstance(values, dict) else {}
    return {name: json.dumps(value).encode() for name, value in given.items() if name in _WANTED}


def _value(members: Mapping[str, bytes], name: str) -> Any:  # Any: whatever an agent wrote
    raw = members.get(name)
    if raw is None:
        return None
    try:
        return _decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            return None


def _turns(members: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    """The first form that holds anything."""
    for name, read in (
        ("transcript_json", _of_items),
        ("transcript_with_metrics", _of_pairs),
        ("transcript", lambda value: _of_lines(value) if isinstance(value, str) else _of_items(value)),
        ("messages", _of_items),
    ):
        if name in members and (turns := tuple(_limited(read(_value(members, name))))):
            return turns
    return ()


def _of_items(value: object) -> Iterator[tuple[str, str]]:
    """`[{"role", "content"}]`, with the names that others use."""
    if isinstance(value, dict):
        value = value.get("items") or value.get("messages")
    for item in value if isinstance(value, list) else ():
        if not isinstance(item, dict):
            continue
        role = next((item[name] for name in _SPEAKERS if isinstance(item.get(name), str)), "")
        said = next(filter(None, (_said(item.get(name)) for name in _WORDS)), None)
        if said and role.lower() in _ROLES:
            yield _ROLES[role.lower()], said
        else:
            yield from _of_pairs([item])


def _of_pairs(value: object) -> Iterator[tuple[str, str]]:
    """`[{"user_transcript", "agent_response"}]`, as the SDK has it."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            for role, name in ((CALLER, "user_transcript"), (AGENT, "agent_response")):
                if said := _said(item.get(name)):
                    yield role, said


def _of_lines(value: str) -> Iterator[tuple[str, str]]:
    """`User: ...` and `Agent: ...`, a line each."""
    for line in value.splitlines():
        found = _LINE.match(line)
        if found and found[1].lower() in _ROLES:
            yield _ROLES[found[1].lower()], found[2]


def _limited(turns: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Those that say something, as a database takes them."""
    for count, (role, said) in enumerate(turns):
        if count >= TURNS:
            return
        words = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", said[:TURN_CHARACTERS]).strip()
        if words:
            yield role, words


def _said(value: object) -> str | None:
    """A text, or several that were said one after the other."""
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    return value.strip() or None if isinstance(value, str) else None


def _text(value: object) -> str | None:
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value.strip()) or None if isinstance(value, str) else None


def _opted_out(members: Mapping[str, bytes]) -> bool:
    """Whether the provider says that nothing may be kept (Retell, ElevenLabs)."""
    if _value(members, "opt_out_sensitive_data_storage") is True:
        return True
    original = _value(members, "original") if b"delete_transcript_and_pii" in members.get("original", b"") else None
    data = original.get("data") if isinstance(original, dict) else None
    metadata = data.get("metadata") if isinstance(data, dict) else None
    deletion = metadata.get("deletion_settings") if isinstance(metadata, dict) else None
    return isinstance(deletion, dict) and deletion.get("delete_transcript_and_pii") is True

"""Importing exported dead letters: staged, verified, decompressed, and accepted as queued deliveries.

Whatever their size, memory is bounded: a document is read, written, decompressed and mapped a block at a time.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

from aiohttp import StreamReader

from gateway.calllog.errors import CallLogError
from gateway.intake.accept import Owner
from gateway.intake.memory import Body
from gateway.intake.ports import RecordStore
from gateway.intake.routes import gateways_in, via_text
from gateway.intake.staging import Staged, StagedFile, StagingArea
from gateway.operations.schemas import Document, ImportHeader, ImportResult
from gateway.operations.selection import Accepts, BadSelection
from gateway.tenants import UNASSIGNED
from spool.errors import CorruptPayload
from spool.payload.frames import decode, decode_stream, encode
from spool.records import DETAIL_FORMS, Buffer, Delivery, Form, Fragment, Lane, NewDelivery, NewRecord
from uploaders.base import PayloadReader
from uploaders.document.render import render
from uploaders.redact import redact

BLOCK_BYTES = 1 << 20
_LARGE_BYTES = 4 << 20
"""A whole above this goes in the lane of details, as it does when it is posted."""
_DETAIL_OPENING = re.compile(
    rb'\{"call_id": ("(?:[^"\\]|\\.)*"|[^",\s{}\[\]]+), "update_type": "detailed_telemetry",', re.DOTALL
)
_LONGEST_OPENING = 1 << 20


class Rules(Protocol):
    """What holds for all that comes in, however it comes: `Acceptor`, whose methods these are."""

    def owner_of_imported(self, tenant: str | None, agent_id: str | None, key: str | None) -> Owner:
        """Whose it is."""

    def key_for(self, tenant: str | None, agents_key: str | None) -> str | None:
        """What an endpoint is sent with it."""

    async def redacted(self, body: Body, tenant: str | None) -> memoryview | None:
        """What may be stored of it; None: all."""


class DeadLetterImporter:
    """Imports exported call logs, redacted as those that are posted. For the event loop."""

    def __init__(
        self, store: RecordStore, staging: StagingArea, destinations: Mapping[str, Accepts], rules: Rules
    ) -> None:
        self._store = store
        self._staging = staging
        self._destinations = destinations
        self._rules = rules

    async def import_record(self, header: ImportHeader, source: StreamReader) -> ImportResult:
        """Accept a call log under the record id that it had; one that the spool knows already is a duplicate.

        Raises `BadSelection` for what cannot be delivered, or does not match its checksum, and the spool's errors.
        """
        owner = self._rules.owner_of_imported(header.tenant, header.agent_id, header.key)
        forms = self._forms(header)
        if not self._destinations[header.to].of(owner.tenant) and owner.tenant != UNASSIGNED:
            whose = owner.tenant or "nobody"
            raise BadSelection(f"{header.to} is the own destination of another tenant: the call log is that of {whose}")
        staged = self._staging.begin()
        try:
            documents, digests = [], []
            for document in header.documents:
                body = await self._document(document, source, staged)
                left = await self._redacted(body, owner)
                documents.append(memoryview(body.data) if left is None else left)
                digests.append(bytes.fromhex(document.sha256) if left is None else await self._digest(left))
            fragments: dict[Fragment, Sequence[Buffer]] = {}
            for form, text in zip(forms, documents, strict=True):
                fragments |= _fragments(form, text)
            digest = sha256(b"".join(digests)).digest()
            if self._store.is_erased(header.call_id, owner.principal, header.agent_id):  # perhaps while it came
                raise BadSelection("the call was erased by order; `erasure.later_posts` says for how long it stays so")
            accepted = await self._store.accept(self._record(header, owner, forms, documents, fragments, digest))
        finally:
            staged.discard()
        return ImportResult(record_id=accepted.uid, duplicate=accepted.duplicate)

    def _forms(self, header: ImportHeader) -> list[Form]:
        """The forms of the documents, if the destination accepts them."""
        accepts = self._destinations.get(header.to)
        if accepts is None:
            known = ", ".join(self._destinations)
            raise BadSelection(f"the configuration has no destination {header.to!r}: say one of {known}")
        words = [document.form for document in header.documents]
        wrong = [word for word in words if word == Form.NOTICE or word not in {form.value for form in accepts.forms}]
        alone = len(words) == 1 or (Form.WHOLE not in words and len(set(words)) == len(words))
        if not words or wrong or not alone or not header.call_id or not header.record_id:
            given = ", ".join(words) or "nothing"
            raise BadSelection(f"{header.to} does not accept {given} of one imported call log")
        return [Form(word) for word in words]

    async def _document(self, document: Document, source: StreamReader, staged: Staged) -> Body:
        """One document, verified and decompressed."""
        workers = self._staging.workers
        packed, digest, left = await workers.run(staged.file), sha256(), document.bytes
        while left > 0:
            try:
                block = await source.readexactly(min(left, BLOCK_BYTES))
            except asyncio.IncompleteReadError:
                raise BadSelection(
                    f"the {document.form} is cut off: its {document.bytes} bytes did not all come"
                ) from None
            digest.update(block)
            await workers.run(packed.write, block)
            left -= len(block)
        if digest.hexdigest() != document.sha256:
            raise BadSelection(f"the {document.form} does not match its SHA-256: export it again")
        plain = await workers.run(staged.file)
        await workers.run(_unpack, packed, plain)
        return Body(await workers.run(plain.map), None, staged, plain)

    async def _redacted(self, document: Body, owner: Owner) -> memoryview | None:
        """What the rules leave of a document; None where there are none for it."""
        try:
            return await self._rules.redacted(document, owner.tenant)
        except CallLogError as error:
            raise BadSelection(f"it cannot be redacted as the configuration has it: {error.message}") from error

    async def _digest(self, document: memoryview) -> bytes:
        """Of what was redacted: by that of the original, what is missing could be guessed."""
        return await self._staging.workers.run(lambda: sha256(document).digest())

    def _record(
        self,
        header: ImportHeader,
        owner: Owner,
        forms: Sequence[Form],
        documents: Sequence[memoryview],
        fragments: Mapping[Fragment, Sequence[Buffer]],
        digest: bytes,
    ) -> NewRecord:
        to = self._destinations[header.to]
        return NewRecord(
            call_id=header.call_id,
            agent_id=header.agent_id,
            event=header.event,
            environment=header.environment,
            digest=digest,
            raw_bytes=sum(len(piece) for pieces in fragments.values() for piece in pieces),
            token=self._rules.key_for(owner.tenant, header.key),
            fragments=fragments,
            deliveries=tuple(
                NewDelivery(header.to, form, _lane(form, len(document)), to.ordered, held=not to.of(owner.tenant))
                for form, document in zip(forms, documents, strict=True)
            ),
            origin=header.record_id,
            tenant=owner.tenant,
            principal=owner.principal,
            via=via_text(gateways_in([header.via or ""])),
        )


def _unpack(packed: StagedFile, plain: StagedFile) -> None:
    """Decompress a file of zstd frames into another file."""
    try:
        for block in decode_stream(packed.map()):
            plain.write(block)
    except CorruptPayload as error:
        raise BadSelection(f"a document cannot be decoded: {error}") from error


def _fragments(form: Form, document: memoryview) -> dict[Fragment, Sequence[Buffer]]:
    """What the spool keeps of a document, so that the same one is made of it again."""
    if form not in DETAIL_FORMS:
        return {Fragment.BODY: [document]}
    opening = _DETAIL_OPENING.match(bytes(document[:_LONGEST_OPENING]))
    if opening is None or bytes(document[-1:]) != b"}":
        raise BadSelection("a detail does not begin and end as callspool writes it")
    rest: dict[Fragment, Sequence[Buffer]] = {Fragment.REST: [document[opening.end() : -1]]}
    # A call id that is a text is made of the record's own again.
    return rest if opening[1].startswith(b'"') else {**rest, Fragment.CALL_ID: [opening[1]]}


def _lane(form: Form, size: int) -> Lane:
    return Lane.DETAIL if form in DETAIL_FORMS or size > _LARGE_BYTES else Lane.CORE


# The document that a delivery carries, read from the spool a piece at a time: for people, and for files.
#
# What is read is what would be sent, before any encoding, with one exception: a reduced detail is read in full, since
# it is reduced only when it is sent.

PREVIEW_BYTES = 2000


async def compressed(delivery: Delivery, payloads: PayloadReader) -> AsyncIterator[bytes]:
    """The document as zstd frames, the stored ones as they are; one after the other they are a valid `.zst`.

    Raises `CorruptPayload`, and `BadLocation` for a notice that has no object to tell of.
    """
    for piece in render(delivery):
        if isinstance(piece, bytes):
            yield encode(piece)
        else:
            async for frame in payloads.frames(delivery.record, piece):
                yield frame


async def plain(delivery: Delivery, payloads: PayloadReader) -> AsyncIterator[bytes]:
    """The document as JSON text, at most 1 MiB at a time. Raises the same errors."""
    async for frame in compressed(delivery, payloads):
        yield await asyncio.to_thread(decode, frame)


async def preview(delivery: Delivery, payloads: PayloadReader) -> tuple[str, bool]:
    """How the document begins, with what looks like a secret masked, and whether that is all of it."""
    begun = bytearray()
    async for block in plain(delivery, payloads):
        begun += block
        if len(begun) > PREVIEW_BYTES:
            break
    text = begun[:PREVIEW_BYTES].decode(errors="ignore")
    return redact(text), len(begun) <= PREVIEW_BYTES

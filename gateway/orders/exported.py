"""The format of exported dead letters: a folder with an index and a file for each document; and how they come back.

    DIRECTORY/dead-letters.ndjson       the index: a header, then a line for each dead letter, in commit order
    DIRECTORY/documents/*.json.zst      what each would have sent, as JSON, compressed with zstd

The index gets its name last, when all that it names is on the disk. Agents' keys are in none of it.
"""

import msgspec

INDEX = "dead-letters.ndjson"
DOCUMENTS = "documents"
FORMAT = "callspool.dead-letters/1"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the index."""

    format: str
    """`callspool.dead-letters/1`."""
    exported_at: str
    callspool: str
    """The version that wrote it."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A further line: a dead letter, or what is held with one. Times are ISO 8601 in UTC."""

    record_id: str
    """With the form it makes the idempotency key, which an import keeps."""
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    destination: str
    form: str
    state: str
    """`dead`, or `held` with the core that stands before it."""
    reason: str | None
    attempts: int
    accepted_at: str
    since: str
    """When it became a dead letter; for what is held when its call log was accepted."""
    idempotency_key: str
    file: str | None
    """Its document, below the folder; None where that could not be read."""
    sha256: str | None
    """Of the file."""
    file_bytes: int
    problem: str | None
    """Why the document could not be read, if so."""


LETTER_TYPE = "application/vnd.callspool.letter"
"""The type of a call log that is brought in: a line of JSON (`Brought`), then its documents as they lie there."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the documents behind that line."""

    form: str
    bytes: int
    """As it lies there, compressed."""
    sha256: str


class Brought(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is brought in of one call log, and for whom."""

    to: str
    record_id: str
    call_id: str
    agent_id: str | None
    event: str
    environment: str | None
    documents: tuple[Document, ...]
    key: str | None = None
    """To be sent with, where the destination forwards agents' keys."""


class BroughtIn(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, once it is durable."""

    record_id: str
    duplicate: bool
    """Whether it was here already: nothing was stored."""

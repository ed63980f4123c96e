"""What the configuration may say of a pipeline. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

BUNDLED: Final = "wordllama-256"
"""The embedding model that comes with the extra, and the name of its vectors."""
BUNDLED_DIMENSIONS: Final = 256
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Summaries(StrEnum):
    """Where summaries come from."""

    PROVIDER_FIRST = "provider_first"
    """The provider's own where there is one, else a model's, else sentences of the call."""
    LLM = "llm"
    """A model's, also where the provider has one."""
    EXTRACTIVE = "extractive"
    """Sentences of the call, chosen here: no model is asked."""


class Runs(StrEnum):
    """Who works on the calls that are queued."""

    LOCAL = "local"
    """This gateway."""
    QUEUE = "queue"
    """Others with the same store: `callspool work --pipeline`, or other receivers."""


class VectorsIn(StrEnum):
    """Where vectors are kept."""

    STORE = "store"
    """In the store itself: SQLite, or PostgreSQL with pgvector."""
    QDRANT = "qdrant"
    PINECONE = "pinecone"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """An OpenAI-compatible server."""

    base_url: str
    token: str | None = field(default=None, repr=False)
    timeout: float = 60.0

    @property
    def is_elsewhere(self) -> bool:
        """Whether what is sent there leaves this machine."""
        return leaves_machine(self.base_url)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may spend. None: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class TenantRule:
    """What a tenant wants otherwise."""

    llm: bool = True
    """Whether its transcripts may be given to a model elsewhere."""
    zone: str | None = None
    """The time zone of its callbacks."""


@dataclass(frozen=True, slots=True)
class CallbackRule:
    """When callers are called back."""

    zone: str = "UTC"
    first_hour: int = 9
    last_hour: int = 18
    """Nobody is called at or after it."""
    days: frozenset[int] = frozenset({0, 1, 2, 3, 4})
    """Of the week; 0 is Monday."""
    per_number_and_day: int = 3


def leaves_machine(url: str) -> bool:
    """Whether an address is not loopback."""
    return (urlsplit(url).hostname or "") not in LOOPBACK

"""What a pipeline asks of models: answers and vectors. Everything that a model does wrong is one of these errors."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class ModelError(Exception):
    """Base of all errors of models and of vector stores."""


class ModelUnavailable(ModelError):
    """It may work later: 429, 5xx, no connection, no answer in time. Nothing was paid.

    `after_seconds` is what the server asked for (Retry-After).
    """

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class ModelRefused(ModelError):
    """It will not work until somebody changes something: a wrong key, model or address. Nothing was paid."""


class TextTooLong(ModelError):
    """The model takes no text of this length. Nothing was paid."""


class BadAnswer(ModelError):
    """An answer was paid for, and it is not what was asked for."""

    def __init__(self, reason: str, tokens: int = 0) -> None:
        super().__init__(reason)
        self.tokens = tokens


class Answer(Struct, frozen=True):
    """What a chat model answered, and how many tokens that took."""

    text: str
    tokens: int


class EmbeddingModel(Protocol):
    """A model that makes vectors. Raises `ModelError`."""

    name: str
    dimensions: int
    is_elsewhere: bool
    is_paid: bool
    """Whether its vectors are kept in the journal before anything else is done with them."""

    async def embed(self, texts: Sequence[str]) -> tuple[Sequence[bytes], int]:
        """A vector (float32, little-endian, of length 1) for each text, and how many tokens that took."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class VectorStore(Protocol):
    """Where vectors are kept and compared. Every method raises `ModelError` or `StoreError`.

    Every implementation passes one conformance suite (tests/pipeline/test_vectors.py).
    """

    async def prepare(self, dimensions: int) -> None:
        """Make what is missing. Raises `ModelRefused` where it is there with another number of dimensions."""
        ...

    async def put(self, project: str, call_id: str, vector: bytes) -> None:
        """Keep the vector of a call, in place of an earlier one."""
        ...

    async def nearest(self, project: str, vector: bytes, limit: int) -> Sequence[tuple[str, float]]:
        """The calls of this project nearest to a vector, with their cosine similarity, the nearest first."""
        ...

    async def forget(self, project: str, call_id: str) -> None:
        """Delete the vector of a call, if there is one."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...

"""Models of OpenAI-compatible servers: `/chat/completions` and `/embeddings`.

What a server answers is checked here as far as the protocol goes: one choice, ended by itself, and vectors of the
length that was asked for. What an answer says is checked by whoever asked.
"""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any, Final

from uploaders.pipeline.models import Answer, BadAnswer, HttpFailed, JsonClient, ModelRefused, NotJson, TextTooLong
from uploaders.pipeline.options import ServerOptions

ANSWER_TOKENS: Final = 800
"""A summary of 200 words, its JSON, and a quotation."""
_TOO_LONG: Final = frozenset({"context_length_exceeded", "string_above_max_length", "max_tokens_exceeded"})


def client_of(options: ServerOptions) -> JsonClient:
    """How to reach the server."""
    headers = {"User-Agent": "callspool"}
    if options.token:
        headers["Authorization"] = f"Bearer {options.token}"
    return JsonClient(options.base_url, headers, options.timeout)


class OpenAiChat:
    """A chat model. Everything that it does wrong is a `ModelError`."""

    def __init__(self, options: ServerOptions, model: str) -> None:
        self.name = model
        self.is_elsewhere = options.is_elsewhere
        self._client = client_of(options)

    async def ask(self, instructions: str, text: str, schema: dict[str, object]) -> Answer:
        """Its answer: it is asked for a JSON object of this schema, and may answer anything."""
        body = {
            "model": self.name,
            "messages": [{"role": "system", "content": instructions}, {"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "call", "strict": True, "schema": schema},
            },
        }
        try:
            answer = await self._client.request("POST", "/chat/completions", body)
        except NotJson as error:
            raise BadAnswer(str(error)) from error
        except HttpFailed as error:
            raise _refusal(error) from error
        tokens = _tokens(answer)
        choice = _first(_member(answer, "choices"))
        message = _member(choice, "message")
        content = _member(message, "content")
        if _member(message, "refusal"):
            raise BadAnswer("the model refuses to answer", tokens)
        if _member(choice, "finish_reason") not in {"stop", None}:
            raise BadAnswer("the answer is cut off", tokens)
        if not isinstance(content, str) or not content.strip():
            raise BadAnswer("the answer is empty", tokens)
        return Answer(content, tokens)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class OpenAiEmbedding:
    """An embedding model."""

    is_paid = True

    def __init__(self, options: ServerOptions, model: str, dimensions: int) -> None:
        self.name = f"{model}-{dimensions}"
        self.dimensions = dimensions
        self.is_elsewhere = options.is_elsewhere
        self._model = model
        self._client = client_of(options)

    async def embed(self, texts: Sequence[str]) -> tuple[Sequence[bytes], int]:
        """See `EmbeddingModel`. Some servers ignore what they are asked for, so that every vector is checked."""
        body = {
            "model": self._model, "input": list(texts), "dimensions": self.dimensions, "encoding_format": "base64",
        }  # fmt: skip
        try:
            answer = await self._client.request("POST", "/embeddings", body)
        except HttpFailed as error:
            raise _refusal(error) from error
        data = _member(answer, "data")
        items = data if isinstance(data, list) else []
        places = [_member(item, "index") for item in items]
        if sorted(place for place in places if isinstance(place, int)) == list(range(len(items))):
            items = [item for _, item in sorted(zip(places, items, strict=True), key=lambda each: each[0])]
        vectors = [self._vector(_member(item, "embedding")) for item in items]
        if len(vectors) != len(texts):
            raise ModelRefused(f"{self._model} answers {len(vectors)} vectors for {len(texts)} texts")
        return vectors, _tokens(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _vector(self, value: object) -> bytes:
        """Raises `ModelRefused` where it has another length, and `BadAnswer` for numbers that are none."""
        numbers: Sequence[object] = value if isinstance(value, list) else _floats(value)
        if len(numbers) != self.dimensions:
            raise ModelRefused(
                f"{self._model} makes vectors of {len(numbers)} dimensions where {self.dimensions} are configured"
            )
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
            raise BadAnswer(f"{self._model} made a vector with something in it that is no number")
        floats = [float(each) for each in numbers if isinstance(each, int | float)]
        length = math.sqrt(sum(each * each for each in floats))
        if not length or not math.isfinite(length):
            raise BadAnswer(f"{self._model} made a vector of zeros")
        return struct.pack(f"<{len(floats)}f", *[each / length for each in floats])


def _refusal(error: HttpFailed) -> Exception:
    return TextTooLong(str(error)) if error.code in _TOO_LONG or error.status == 413 else error


def _floats(value: object) -> Sequence[float]:
    """Of base64; none of anything else."""
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except binascii.Error:
        return ()
    return struct.unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4])


def _member(value: object, name: str) -> Any:  # Any: whatever a server answers
    return value.get(name) if isinstance(value, dict) else None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _tokens(answer: object) -> int:
    tokens = _member(_member(answer, "usage"), "total_tokens")
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 1 << 31 else 0

"""Models and vector stores as a pipeline asks them: what can go wrong, by HTTP, and what a tenant may spend on them."""

import asyncio
import base64
import binascii
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import aiohttp
from msgspec import Struct

from spool.records import system_clock
from uploaders.http.pool import proxy_for
from uploaders.http.responses import parse_retry_after
from uploaders.pipeline.options import Limits, ServerOptions


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

    async def close(self) -> None:
        """Close connections."""


class VectorStore(Protocol):
    """Where vectors are kept and compared. Every method raises `ModelError` or `StoreError`.

    Every implementation passes one conformance suite (tests/pipeline/test_vectors.py).
    """

    async def prepare(self, dimensions: int) -> None:
        """Make what is missing. Raises `ModelRefused` where it is there with another number of dimensions."""

    async def put(self, project: str, call_id: str, vector: bytes) -> None:
        """Keep the vector of a call, in place of an earlier one."""

    async def nearest(self, project: str, vector: bytes, limit: int) -> Sequence[tuple[str, float]]:
        """The calls of this project nearest to a vector, with their cosine similarity, the nearest first."""

    async def forget(self, project: str, call_id: str) -> None:
        """Delete the vector of a call, if there is one."""

    async def close(self) -> None:
        """Close connections."""


# Servers of models and of vectors, by JSON over HTTP: one request, never repeated, never redirected.
#
# Unlike endpoints, these are read to the end: an answer is what they are asked for. Proxies come from the environment.

ANSWER_BYTES: Final = 16 << 20
"""The largest answer that is read."""
_LATER: Final = frozenset({408, 409, 425, 429})
_WORD: Final = re.compile(r"[\w.-]{1,64}")


class HttpFailed(ModelRefused):
    """The server refuses the request; `status` and `code` say why."""

    def __init__(self, reason: str, status: int, code: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


class JsonClient:
    """Requests to one server. Opened with the first of them."""

    def __init__(self, base_url: str, headers: Mapping[str, str], timeout: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers)
        self._timeout = timeout
        self._proxy = proxy_for(base_url)
        self._session: aiohttp.ClientSession | None = None

    async def request(self, method: str, path: str, body: object = None) -> Any:  # Any: what a server answers
        """The decoded answer of a 2xx; None for an empty one. Raises `ModelUnavailable` and `HttpFailed`."""
        try:
            async with asyncio.timeout(self._timeout):
                status, text, retry_after = await self._answer(method, path, body)
        except TimeoutError:
            raise ModelUnavailable(f"{self._base_url} gave no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            raise ModelUnavailable(f"{self._base_url} cannot be asked: {type(error).__name__}") from error
        if 200 <= status < 300:
            try:
                return json.loads(text) if text.strip() else None
            except (ValueError, RecursionError):
                raise NotJson(f"{self._base_url} answered {status} with something that is not JSON") from None
        code = _error_code(text)
        reason = f"{self._base_url} answered {status}" + (f" ({code})" if code else "")
        if status in _LATER or status >= 500:
            raise ModelUnavailable(reason, retry_after)
        raise HttpFailed(reason, status, code)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _answer(self, method: str, path: str, body: object) -> tuple[int, str, float | None]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None), headers=self._headers, cookie_jar=aiohttp.DummyCookieJar()
            )
        proxy = self._proxy
        async with self._session.request(
            method, f"{self._base_url}{path}", json=body, allow_redirects=False,
            proxy=proxy.url if proxy else None, proxy_headers=proxy.headers if proxy else None,
        ) as response:  # fmt: skip
            read = bytearray()
            async for chunk in response.content.iter_chunked(64 << 10):
                read += chunk
                if len(read) > ANSWER_BYTES:
                    raise NotJson(f"{self._base_url} answers more than {ANSWER_BYTES >> 20} MiB")
            return response.status, read.decode("utf-8", "replace"), _retry_after(response.headers.get("Retry-After"))


class NotJson(ModelUnavailable):
    """A 2xx whose body is no JSON, such as the page of a proxy."""


def _retry_after(value: str | None) -> float | None:
    return parse_retry_after(value, system_clock())


def _error_code(text: str) -> str:
    """The server's own word for what is wrong. Its sentence may quote what somebody said on the phone."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    error = answer.get("error") if isinstance(answer, dict) else None
    words = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
    return next((word for word in words if isinstance(word, str) and _WORD.fullmatch(word)), "")


# What a tenant may spend on models, and whose turn it is. Pure; times are seconds of a monotonic clock.
#
# Requests and tokens of a minute are leaky buckets (GCRA) that hold one minute's worth. A tenant that has spent its
# share waits by itself: nobody behind it does.

MINUTE = 60.0


@dataclass(slots=True)
class Budget:
    """The buckets of all tenants."""

    limits: Limits
    _requests: dict[str, float] = field(default_factory=dict)
    """For each project, when its bucket will be empty."""
    _tokens: dict[str, float] = field(default_factory=dict)

    def seconds_until_free(self, project: str, now: float) -> float:
        """How long the next request of this project has to wait."""
        waits = [0.0]
        if self.limits.requests_per_minute is not None:
            room = MINUTE - MINUTE / self.limits.requests_per_minute
            waits.append(self._requests.get(project, 0.0) - now - room)
        if self.limits.tokens_per_minute is not None:
            waits.append(self._tokens.get(project, 0.0) - now - MINUTE)
        return max(waits)

    def asked(self, project: str, now: float) -> None:
        """A request is made."""
        if self.limits.requests_per_minute is not None:
            empty_at = max(self._requests.get(project, 0.0), now)
            self._requests[project] = empty_at + MINUTE / self.limits.requests_per_minute

    def answered(self, project: str, tokens: int, now: float) -> None:
        """It took so many tokens."""
        if self.limits.tokens_per_minute is not None:
            empty_at = max(self._tokens.get(project, 0.0), now)
            self._tokens[project] = empty_at + tokens * MINUTE / self.limits.tokens_per_minute


@dataclass(slots=True)
class Turns:
    """Who is served next: whoever has the fewest calls under way, and of these whoever was served longest ago."""

    _served: dict[str, int] = field(default_factory=dict)
    _count: int = 0

    def share(self, projects: Iterable[str], running: Counter[str], slots: int) -> Sequence[tuple[str, int]]:
        """How many of the free slots each project gets; one that has less to do leaves some unused."""
        waiting = list(projects)
        given: Counter[str] = Counter()
        for _ in range(slots if waiting else 0):
            chosen = min(waiting, key=lambda each: (running[each] + given[each], self._served.get(each, 0), each))
            given[chosen] += 1
            self._count += 1
            self._served[chosen] = self._count
        return list(given.items())


# Models of OpenAI-compatible servers: `/chat/completions` and `/embeddings`.
#
# What a server answers is checked here as far as the protocol goes: one choice, ended by itself, and vectors of the
# length that was asked for. What an answer says is checked by whoever asked.

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

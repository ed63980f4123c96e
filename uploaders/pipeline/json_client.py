"""JSON over HTTP, for the servers of models and of vectors: one request, never repeated, never redirected.

Unlike endpoints, these are read to the end: an answer is what they are asked for. Proxies come from the environment.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from spool.records import system_clock
from uploaders.http.pool import proxy_for
from uploaders.http.responses import parse_retry_after
from uploaders.pipeline.models import ModelRefused, ModelUnavailable

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

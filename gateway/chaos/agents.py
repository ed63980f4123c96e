"""The agents of a check: each posts one call after the other, and every call log until it is acknowledged."""

import asyncio
import itertools
from collections.abc import Callable, Iterator

import aiohttp
import msgspec

from gateway.chaos.oracle import Notes
from gateway.chaos.posts import Post, make_post

AGAIN_SECONDS = 0.2
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_OK = range(200, 300)


class Agents:
    """Posts to an intake, as long as `run` is not cancelled. `large_bytes` is the size of a large call log."""

    def __init__(self, url: str, notes: Notes, *, token: str | None, large_bytes: int, run_id: str) -> None:
        self._url = url
        self._notes = notes
        self._headers = {"Content-Type": "application/json"} | ({"x-pype-token": token} if token else {})
        self._large_bytes = large_bytes
        self._run_id = run_id
        self._numbers: Iterator[int] = itertools.count(1)
        self.may_begin = asyncio.Event()
        """Cleared while no new call log is to be begun."""
        self.may_begin.set()

    async def run(self, count: int, *, large_every: int) -> None:
        """So many agents at once; every so many call logs of theirs one is large."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session, asyncio.TaskGroup() as group:
            for agent in range(count):
                group.create_task(self._talk(session, agent, large_every))

    async def fill(self, until: Callable[[str], bool], limit: int) -> None:
        """Post large call logs, each once, until an answer's code is one that `until` accepts; at most `limit`."""
        async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False) as session:
            for number in range(limit):
                post = make_post(next(self._numbers), f"{self._run_id}-fill-{number}", "call_ended", self._large_bytes)
                self._notes.posted[post.number] = post
                code = await self._post(session, post)
                if until(code):
                    return

    async def _talk(self, session: aiohttp.ClientSession, agent: int, large_every: int) -> None:
        for turn in itertools.count():
            call_id = f"{self._run_id}-{agent}-{turn}"
            large = self._large_bytes if turn % large_every == agent % large_every else None
            for event, size in (("call_started", None), ("call_ended", large)):
                await self.may_begin.wait()
                post = make_post(next(self._numbers), call_id, event, size)
                self._notes.posted[post.number] = post
                await self._post_until_acknowledged(session, post)

    async def _post_until_acknowledged(self, session: aiohttp.ClientSession, post: Post) -> None:
        while await self._post(session, post):  # noqa: ASYNC110  # agents, too, only wait for a while
            await asyncio.sleep(AGAIN_SECONDS)

    async def _post(self, session: aiohttp.ClientSession, post: Post) -> str:
        """Post once. Returns the code of the refusal, "unreachable", or nothing where it was acknowledged."""
        try:
            async with session.post(self._url, data=post.body, headers=self._headers) as answer:
                text = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._notes.refused["unreachable"] += 1
            return "unreachable"
        if status in _OK:
            self._notes.acknowledged.add(post.number)
            return ""
        code = _code_of(text) or str(status)
        self._notes.refused[code] += 1
        return code


def _code_of(text: bytes) -> str | None:
    """The gateway's own word for why it refused."""
    try:
        return str(msgspec.json.decode(text)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None

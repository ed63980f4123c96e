"""Agents that post call logs of every kind at a steady pace, and insist until each one is acknowledged."""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import aiohttp

from bench.soak.bodies import Bodies, envelope
from bench.soak.ledger import Ledger

TOKENS = ("agent-key-1", "agent-key-2")
"""The agents' keys, used in turn; the endpoint refuses the second for a while."""
_AGAIN_SECONDS = 0.25
_POST = aiohttp.ClientTimeout(total=120, sock_connect=10)
_BATCH_LINES = 10
_PATH = "/dev/send-call-log"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of post, and how often one begins while the machine keeps up."""

    name: str
    every_seconds: float
    post: Callable[["Agents"], Awaitable[None]]


class Agents:
    """Posts, and writes down in the ledger what was answered."""

    def __init__(self, session: aiohttp.ClientSession, port: int, ledger: Ledger) -> None:
        self.bodies = Bodies()
        self.ledger = ledger
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def call(self) -> None:
        """A short call: its beginning, and its end."""
        call = self.bodies.next_call()
        for event in ("call_started", "call_ended"):
            await self._insist("2 KB", self.bodies.call_log(2_000, call, event=event), call)

    async def plain(self, name: str, size_bytes: int) -> None:
        """One call log as plain JSON."""
        call = self.bodies.next_call()
        await self._insist(name, self.bodies.call_log(size_bytes, call), call)

    async def enveloped(self) -> None:
        """500 KB in the SDK's envelope."""
        call = self.bodies.next_call()
        body = await asyncio.to_thread(envelope, self.bodies.call_log(500_000, call))
        await self._insist("envelope", body, call)

    async def batch(self) -> None:
        """Ten call logs in one batch; each line is acknowledged for itself."""
        calls = [self.bodies.next_call() for _ in range(_BATCH_LINES)]
        body = b"\n".join(self.bodies.call_log(2_000, call) for call in calls)
        answer = await self._answered("POST", "/v1/calls/batch", body, calls[0])
        for line in answer.splitlines():
            told = json.loads(line)
            if told["status"] == 202:
                self.ledger.note("batch", told)
            else:
                self.ledger.unanswered.append(f"a line of a batch: {line}")

    async def through_an_address(self) -> None:
        """6 MB through an upload address, which survives a restart of the gateway."""
        call = self.bodies.next_call()
        wanted = json.dumps({"call_id": call, "content_type": "application/json"}).encode()
        given = json.loads(await self._answered("POST", "/dev/get-upload-url", wanted, call))
        path = given["upload_url"].removeprefix(self._url)
        answer = await self._answered("PUT", path, self.bodies.call_log(6_000_000, call), call)
        self.ledger.note("upload address", json.loads(answer))

    async def _insist(self, kind: str, body: bytes, call: str) -> None:
        self.ledger.note(kind, json.loads(await self._answered("POST", _PATH, body, call)))

    async def _answered(self, method: str, path: str, body: bytes, call: str) -> str:
        """Send until it is taken, as an agent with an outbox does; the answer's body."""
        headers = {"Content-Type": "application/json", "x-pype-token": TOKENS[int(call[-1]) % len(TOKENS)]}
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                answer = await self._once(method, path, body, headers)
                if answer is not None:
                    return answer
                self.ledger.put_off += 1
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            self.ledger.cut_off += 1
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> str | None:
        """The body of a good answer; None for one that asks to come again. Raises `UnexpectedAnswer` for any other."""
        async with self._session.request(
            method, self._url + path, data=io.BytesIO(body), headers=headers, timeout=_POST
        ) as answer:
            text = await answer.text()
            if answer.status in {503, 507}:
                return None
            if answer.status >= 300:
                self.ledger.unanswered.append(f"{method} {path}: {answer.status} {text[:200]}")
                raise UnexpectedAnswer(self.ledger.unanswered[-1])
            return text


class UnexpectedAnswer(Exception):
    """A good call log was refused."""


def kinds(seconds: float) -> tuple[Kind, ...]:
    """What is posted in a run of so many seconds; in a short one, what is rare comes at least some times."""
    rare = min(60.0, seconds / 4)
    return (
        *(Kind("2 KB", 0.2, Agents.call) for _ in range(3)),
        Kind("500 KB", 0.5, lambda agents: agents.plain("500 KB", 500_000)),
        Kind("15 MB", min(6.0, rare), lambda agents: agents.plain("15 MB", 15_000_000)),
        Kind("65 MB", rare, lambda agents: agents.plain("65 MB", 65_000_000)),
        Kind("envelope", 1.5, Agents.enveloped),
        Kind("batch", 2.0, Agents.batch),
        Kind("upload address", min(8.0, rare), Agents.through_an_address),
    )


async def keep_posting(agents: Agents, kind: Kind, over: asyncio.Event) -> None:
    """Post this kind at its pace until it is over; ends when the last one is acknowledged."""
    while not over.is_set():
        begun = time.monotonic()
        with contextlib.suppress(UnexpectedAnswer):
            await kind.post(agents)
        await asyncio.sleep(max(0.0, begun + kind.every_seconds - time.monotonic()))

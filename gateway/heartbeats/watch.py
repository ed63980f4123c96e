"""Watches calls by their heartbeats: one whose agent is silent for too long is made a call log that says so.

Silence is counted while this gateway listens, by a clock that nobody sets: a restart, a stopped process, or a machine
that slept takes no time from an agent. A call that ends leaves nothing here; one whose end comes after its agent seemed
lost gets that as its next call log, which takes the place of the first everywhere.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from gateway.calllog.errors import CallLogError
from gateway.calls import LiveEntry
from gateway.intake.accept import Acceptor, Arrival, owner_of
from gateway.intake.body_reader import BodyReader
from gateway.intake.memory import BudgetExhausted
from gateway.intake.parse import CallLog
from gateway.intake.responses import Rejection
from gateway.trace import instant
from spool.errors import CallIsLive, SpoolError
from spool.live_calls import HeardCall, LiveCall, LostCall
from spool.records import AGENT_LOST, Clock
from uploaders.tasks import Tasks, to_the_end

_log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often to look for agents that are silent."""
_LONGEST_STEP: Final = 2 * LOOK_SECONDS
"""A longer time between two looks is not the agents' silence: this process stood still."""
_TOUCH_SECONDS: Final = 15.0
"""How often it is made durable when calls were heard of last."""
_RETRY_SECONDS: Final = 5.0

Key = tuple[str, str]
"""A call id, and whose call it is."""


class LiveStore(Protocol):
    """The durable store of live calls (`spool.queue.live.LiveCalls`)."""

    calls: dict[Key, LiveCall]
    imported: Callable[[LiveCall], None]
    """Called with each call that a salvage brought."""

    async def open(self) -> None:
        """Read which calls are live from before."""

    async def hear(self, heard: HeardCall, token: str | None) -> LiveCall:
        """Make what a post says of a call durable. Raises `SpoolError`."""

    def says_nothing_new(self, heard: HeardCall) -> bool:
        """Whether all that it says is durable."""

    def ended(self, call_id: str, principal: str) -> None:
        """The call is not live any more."""

    async def current(self, call_id: str, principal: str) -> LiveCall | None:
        """The call as it is stored; None where it has ended."""

    def turns(self, call_id: str, principal: str) -> AsyncIterator[bytes | None]:
        """The turns of a call in their order; None for one that is damaged."""

    async def about(self, call_id: str, principal: str) -> bytes | None:
        """What its agent says of a call, as members of a JSON object; None for nothing."""

    async def token_id(self, call_id: str, principal: str) -> int | None:
        """Where the sender's key is kept, if a post of this call brought one."""

    async def erase(self, call_id: str, principal: str) -> None:
        """Delete a call, and what was said in it. Raises `SpoolError`."""

    async def touch(self, calls: list[LiveCall]) -> None:
        """Make durable when these were heard of last."""


class HeartbeatObserver(Protocol):
    """Observes heartbeats for metrics, on the event loop."""

    def turns_kept(self, count: int) -> None:
        """So many turns are durable that were not before."""

    def agent_lost(self) -> None:
        """A call log says that an agent is lost."""

    def calls_watched(self, count: int) -> None:
        """So many calls are watched."""


class ListeningTime:
    """Seconds for which this process was there to hear anybody."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seen = monotonic()
        self.seconds = 0.0

    def advance(self) -> float:
        """Look at the clock; returns the seconds."""
        now = self._monotonic()
        self.seconds += min(max(now - self._seen, 0.0), _LONGEST_STEP)
        self._seen = now
        return self.seconds


class HeartbeatWatch:
    """The watched calls of a gateway. For the event loop."""

    def __init__(
        self, store: LiveStore, acceptor: Acceptor, bodies: BodyReader, lost_after: float,
        token_of: Callable[[int], Awaitable[str | None]], observer: HeartbeatObserver, clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`lost_after`: seconds of silence."""
        self._store = store
        self._acceptor = acceptor
        self._bodies = bodies
        self.lost_after = lost_after
        self._token_of = token_of
        self._observer = observer
        self._clock = clock
        self._listening = ListeningTime(monotonic)
        self._heard: dict[Key, float] = {}
        """When each open call was heard of last, by listening time; those first that were silent longest."""
        self._touched: set[Key] = set()
        self._touch_at = 0.0
        self._not_before: dict[Key, float] = {}
        self._some = asyncio.Event()
        """Whether there are calls to look at."""
        self._tasks = Tasks()

    async def open(self) -> None:
        """Read which calls are live from before: their silence begins now."""
        await self._store.open()
        self._store.imported = self._watch
        for call in self._store.calls.values():
            if call.open:
                self._watch(call)
        self._observer.calls_watched(len(self._heard))

    def start(self) -> None:
        """Begin to look for silent agents."""
        self._tasks.keep(self._run)

    async def close(self) -> None:
        """Stop looking; calls stay in the spool for the next start."""
        await self._tasks.cancel()
        try:
            await self._touch()
        except SpoolError as error:  # the next start takes an older time for the last
            _log.warning("heartbeats_not_noted", reason=str(error))

    def calls(self) -> tuple[LiveEntry, ...]:
        """All live calls, those first that were silent longest."""
        now, heard, calls = self._listening.advance(), self._heard, self._store.calls
        lost = [_entry(call, None) for call in calls.values() if not call.open]
        live = [_entry(call, now - at) for key, at in heard.items() if (call := calls.get(key)) and call.open]
        return (*lost, *live)

    def sign_of_life(self, call_id: str, principal: str) -> None:
        """A request is about this call; nothing of it has been read."""
        call = self._store.calls.get((call_id, principal))
        if call is not None and call.open:
            self._note_heard(call)

    async def hear(self, heard: HeardCall, token: str | None) -> LiveCall:
        """What a post says of a call is durable on return. Raises `SpoolError`; returns the call.

        A heartbeat that says nothing new writes nothing.
        """
        call = self._store.calls.get((heard.call_id, heard.principal))
        if call is None or not call.open or not self._store.says_nothing_new(heard):
            return await to_the_end(self._keep(heard, token, 0 if call is None else call.turns))
        self._note_heard(call)
        return call

    async def _keep(self, heard: HeardCall, token: str | None, turns_before: int) -> LiveCall:
        """What is durable is watched, whether its sender still waits or not."""
        call = await self._store.hear(heard, token)
        self._observer.turns_kept(max(0, call.turns - turns_before))
        self._watch(call)
        return call

    def _watch(self, call: LiveCall) -> None:
        """From now on its silence counts."""
        key = call.call_id, call.principal
        self._acceptor.open_calls.heard(call.call_id, self._clock(), call.principal)
        self._heard.pop(key, None)
        self._heard[key] = self._listening.advance()
        self._some.set()
        self._observer.calls_watched(len(self._heard))

    def _note_heard(self, call: LiveCall) -> None:
        """It was heard of; when, will be durable with the next touch."""
        key = call.call_id, call.principal
        call.last_at = max(call.first_at, self._clock())
        self._heard.pop(key, None)
        self._heard[key] = self._listening.advance()
        self._touched.add(key)

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()
            if not self._heard:
                self._some.clear()

    async def look(self) -> None:
        """Make a call log of each call whose agent has been silent for too long; what fails is tried again."""
        now = self._listening.advance()
        for key in self._silent(now):
            try:
                await self._lose(key)
            except CallIsLive:
                pass  # it was heard of meanwhile, or its end came: the next look sees which
            except (SpoolError, OSError, CallLogError, Rejection, BudgetExhausted) as error:
                _log.warning("lost_call_waits", call_id=key[0], reason=str(error))
                self._not_before[key] = now + _RETRY_SECONDS
            except Exception as error:  # noqa: BLE001  # a defect that one call meets must not keep the others waiting
                _log.error("unexpected error with a lost call", call_id=key[0], exc_info=error)
                self._not_before[key] = now + _RETRY_SECONDS
        if now >= self._touch_at:
            self._touch_at = now + _TOUCH_SECONDS
            try:
                await self._touch()
            except SpoolError as error:
                _log.warning("heartbeats_not_noted", reason=str(error))

    def _silent(self, now: float) -> list[Key]:
        """Whom nobody heard of for too long; calls that have ended are forgotten on the way."""
        silent = []
        for key, heard_at in list(self._heard.items()):
            call = self._store.calls.get(key)
            if call is None or not call.open:
                self._forget(key)
            elif now - heard_at >= self.lost_after and now >= self._not_before.get(key, 0.0):
                silent.append(key)
        return silent

    def _forget(self, key: Key) -> None:
        self._heard.pop(key, None)
        self._not_before.pop(key, None)
        self._touched.discard(key)
        self._observer.calls_watched(len(self._heard))

    async def _touch(self) -> None:
        calls = [call for key in self._touched if (call := self._store.calls.get(key)) is not None]
        self._touched.clear()
        if calls:
            await self._store.touch(calls)

    async def _lose(self, key: Key) -> None:
        """Have a call log accepted that says that its agent is lost. Raises `CallIsLive` where that is not so."""
        heard_at = self._heard[key]
        agent_id = self._store.calls[key].agent_id if key in self._store.calls else None
        if self._acceptor.is_erased(*key, agent_id, None):  # a post that was on its way then
            await self._store.erase(*key)
            self._forget(key)
            return
        call = await self._store.current(*key)
        if call is None:
            self._store.ended(*key)
            self._forget(key)
            return
        call.last_at = self._store.calls[key].last_at
        token_id = await self._store.token_id(*key)
        token = None if token_id is None else await self._token_of(token_id)
        arrival = Arrival(agents_key=token, owner=owner_of(call.principal), loses=LostCall(*key, call.version))
        with await self._bodies.without_most().read_stream(self._document(call)) as body:
            parsed = await self._acceptor.parse(body, arrival)
            assert isinstance(parsed, CallLog), "it has a call_id, and no member that makes it something else"
            if self._heard.get(key) != heard_at:
                raise CallIsLive(f"the call {call.call_id} was heard of meanwhile")
            await self._acceptor.accept(parsed, arrival)
        silent = round(self._listening.advance() - heard_at)
        _log.warning(
            "agent_lost", call_id=call.call_id, agent_id=call.agent_id, silent_seconds=silent, turns=call.turns,
            what_happens="a call_ended with the turns so far is sent; the real end replaces it if it comes",
        )  # fmt: skip
        self._observer.agent_lost()
        self._forget(key)

    async def _document(self, call: LiveCall) -> AsyncIterator[bytes]:
        """The call log of a call whose agent is lost."""
        yield b'{"call_id":' + _encode(call.call_id)
        if call.agent_id:
            yield _members({"agent_id": call.agent_id})
        if about := await self._store.about(call.call_id, call.principal):
            yield b"," + about
        yield _members({
            "wcall_event": "call_ended",
            "call_started_at": instant(call.first_at if call.started_at is None else call.started_at),
            "call_ended_at": instant(call.last_at),
            "call_ended_reason": AGENT_LOST,
            "transcript_type": "agent",
        })  # fmt: skip
        yield b',"transcript_json":['
        kept = damaged = 0
        async for turn in self._store.turns(call.call_id, call.principal):
            if turn is None:
                damaged += 1
                continue
            yield b"," + turn if kept else turn
            kept += 1
        yield b"]" + (_members({"damaged_turns": damaged}) if damaged else b"") + b"}"


_encode = msgspec.json.Encoder().encode


def _members(values: Mapping[str, object]) -> bytes:
    return b"".join([b",%b:%b" % (_encode(name), _encode(value)) for name, value in values.items()])


def _entry(call: LiveCall, silent: float | None) -> LiveEntry:
    """A call as lists show it."""
    return LiveEntry(
        call_id=call.call_id,
        tenant=owner_of(call.principal).tenant,
        agent_id=call.agent_id,
        state="live" if call.open else "lost",
        first_heard_at=instant(call.first_at),
        last_heard_at=instant(call.last_at),
        silent_seconds=None if silent is None else round(silent, 1),
        turns=call.turns,
        bytes=call.raw_bytes,
    )

"""`POST /v1/calls/{call_id}/heartbeat` and `POST /v1/calls/{call_id}/turns`: what agents say while a call goes on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from mmap import mmap
from typing import Final

import msgspec
from aiohttp import web

from gateway.calllog.document import MAX_NAME_LENGTH, credential, moment_of, text_of
from gateway.calllog.shape import ON_THE_LOOP, Bounds, Costly
from gateway.calllog.toplevel import TopLevel, scan
from gateway.heartbeats.watch import HeartbeatWatch
from gateway.intake.accept import Acceptor, erased
from gateway.intake.body_reader import BodyReader
from gateway.intake.memory import Body
from gateway.intake.redaction import redactor_of
from gateway.intake.responses import Rejection
from gateway.intake.routes import ANSWERED, IntakeToken, Match, Result, Route
from gateway.intake.staging import Workers
from spool.errors import CallHasEnded, TooMuchLive
from spool.live_calls import HeardCall, NewTurn
from spool.records import Buffer, principal_of
from uploaders.redaction.options import Redaction
from uploaders.stores.spans import without_lone_surrogates

# Reading: what a heartbeat or a post of turns says, checked. Pure.

POST_BYTES: Final = 1 << 20
"""The largest post of turns."""
ABOUT_BYTES: Final = 16 << 10
"""What a heartbeat may say of its call."""
MOST_TURNS: Final = 1_000
"""In one post."""
_LONGEST_ID: Final = 200
_LARGEST_INDEX: Final = 1 << 53
_BOUNDS: Final = Bounds(members=1_000, separators=None, slow_bytes=64 << 10)
"""In a thread; a longer body that the fast decoder refuses would take it for seconds."""
_OURS: Final = frozenset({
    "call_id", "wcall_event", "update_type", "call_ended_at", "call_ended_reason", "transcript_type",
    "transcript_json", "s3_reference", "s3_key", "token", "turns", "agent_id", "call_started_at",
})  # fmt: skip
"""Members of a call log that the gateway writes itself, or that say what a document is."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat, or turns, as they were posted."""

    agent_id: str | None = None
    token: str | None = None
    """The agent's own key, if it is in the body."""
    about: bytes | None = None
    started_at: int | None = None
    turns: tuple[NewTurn, ...] = ()

    def of(self, call_id: str, principal: str) -> HeardCall:
        """What it says of this call."""
        return HeardCall(call_id, principal, self.agent_id, self.about, self.started_at, self.turns)


def read_call_id(argument: str) -> str:
    """The call's id in a path. Raises `Rejection` for what could name no call."""
    if not argument.strip() or len(argument) > MAX_NAME_LENGTH:
        hint = f"Put the call's id, percent-encoded, into the path: 1 to {MAX_NAME_LENGTH} characters."
        raise Rejection(422, "bad_call_id", "The path names no call.", hint)
    return argument


RedactionOf = Callable[[str | None, str | None], Redaction | None]
"""The rules for what this agent, or who has this token, posts."""


def read_beat(
    data: Buffer | mmap,
    scratch: Callable[[int], bytearray | mmap],
    redaction_of: RedactionOf,
    bounds: Bounds = _BOUNDS,
    *,
    turns: bool,
) -> Beat:
    """What a body says, redacted; a heartbeat may have none. With `turns` it must hold some, without it must not.

    Raises `CallLogError`, and `Rejection` for turns that are none; with other bounds than its own also `Costly`.
    """
    if not len(data) and not turns:
        return Beat()
    try:
        top = scan(data, scratch, bounds)
    except Costly:
        if bounds is not _BOUNDS:
            raise
        hint = "Post fewer turns at a time, as valid JSON: without NaN, and without halves of surrogate pairs."
        raise Rejection(413, "too_complex", "The body takes too long to read.", hint) from None
    values = top.values
    beat = Beat(
        agent_id=(text_of(values.get("agent_id")) or "")[:MAX_NAME_LENGTH] or None,
        token=credential(text_of(values.get("token"))),
        about=None if turns else _about(top),
        started_at=moment_of(values.get("call_started_at")),
        turns=tuple(_turns(values.get("turns"))) if turns else _none(values.get("turns")),
    )
    redaction = redaction_of(beat.agent_id, beat.token)
    return beat if redaction is None else _redacted(beat, redaction)


def _redacted(beat: Beat, redaction: Redaction) -> Beat:
    """What may be stored of it: its parts where they will stand in the call log. Turns stay the turns that they are."""
    redactor = redactor_of(redaction)
    about, turns = beat.about, beat.turns
    if about is not None:
        text, counts = redactor.redact(scan(b"{" + about + b"}"), bytearray)
        about = bytes(text)[1:-1] if counts else about
    if turns:
        said = b'{"transcript_json":[' + b",".join([turn.data for turn in turns]) + b"]}"
        text, counts = redactor.redact(scan(said), bytearray)
        if counts:
            made = _slices(bytes(scan(bytes(text)).values["transcript_json"]))
            turns = tuple(NewTurn(turn.turn, turn.place, data) for turn, (data, _) in zip(turns, made, strict=True))
    return replace(beat, about=about, turns=turns)


def _about(top: TopLevel) -> bytes | None:
    """The members that the call log will have if the agent is lost, as they came."""
    members = {member.name: member for member in top.members() if member.name not in _OURS}
    if not members:
        return None
    pieces = [b"%b:%b" % (bytes(member.key), bytes(member.value)) for member in members.values()]
    about = b",".join(pieces)
    if len(about) > ABOUT_BYTES:
        hint = "Leave the large members to the call log of its end."
        raise Rejection(413, "too_large", f"A heartbeat may say {ABOUT_BYTES} bytes of its call.", hint)
    return about


class _Turn(msgspec.Struct):
    index: int | None = None
    id: str | int | None = None


_decode_turns = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_turn = msgspec.json.Decoder(_Turn).decode


def _none(raw: msgspec.Raw | None) -> tuple[NewTurn, ...]:
    if raw is not None:
        hint = "Post turns to /v1/calls/{call_id}/turns, which is a heartbeat, too."
        raise Rejection(422, "turns_in_heartbeat", "A heartbeat holds no turns.", hint)
    return ()


def _turns(raw: msgspec.Raw | None) -> Iterator[NewTurn]:
    turns = [] if raw is None else _slices(bytes(raw))
    if not 0 < len(turns) <= MOST_TURNS:
        raise _bad_turn(f"`turns` holds {len(turns)}, and a post 1 to {MOST_TURNS}")
    for number, (turn, readable) in enumerate(turns):
        yield _turn(number, turn, readable)


def _slices(text: bytes) -> list[tuple[bytes, bytes]]:
    """Each turn as it came, and as the decoder takes it: without halves of surrogate pairs."""
    readable = text
    try:
        raws = _decode_turns(text)
    except (msgspec.DecodeError, RecursionError):
        readable = without_lone_surrogates(text)
        try:
            raws = _decode_turns(readable)
        except (msgspec.DecodeError, RecursionError):
            raise _bad_turn("`turns` is no list, or nested too deeply") from None
    slices, at = [], 0
    for raw in raws:
        turn = bytes(raw)
        at = readable.index(turn, at)
        slices.append((text[at : at + len(turn)], turn))
        at += len(turn)
    return slices


def _turn(number: int, data: bytes, readable: bytes) -> NewTurn:
    try:
        turn = _decode_turn(readable)
    except (msgspec.DecodeError, RecursionError):
        raise _bad_turn(f"turn {number} (counted from 0) is no object with an `index` or an `id`") from None
    if turn.index is not None and not 0 <= turn.index < _LARGEST_INDEX:
        raise _bad_turn(f"the `index` of turn {number} (counted from 0) is below 0, or too large")
    name = None if turn.id is None else str(turn.id)
    if name is not None and not 0 < len(name) <= _LONGEST_ID:
        raise _bad_turn(f"the `id` of turn {number} (counted from 0) is empty, or longer than {_LONGEST_ID} characters")
    if name is None and turn.index is None:
        raise _bad_turn(f"turn {number} (counted from 0) has neither `index` nor `id`")
    return NewTurn(f"#{turn.index}" if name is None else f"={name}", turn.index, data)


def _bad_turn(what: str) -> Rejection:
    hint = 'Send {"turns": [{"index": 0, "role": "user", "content": "..."}]}: each with an index, or with an id.'
    return Rejection(422, "bad_turn", f"The turns cannot be taken: {what}.", hint)


_INLINE_BYTES = 16 << 10
"""A larger body is read in a thread."""
_RETRY_SECONDS = 30


class Heard(msgspec.Struct):
    """The answer to a heartbeat, and to turns."""

    call_id: str
    live: bool
    """False: the call has ended; nothing is kept of it any more."""
    turns: int
    """How many turns of the call are durable."""
    lost_after_seconds: float
    """The agent counts as lost when nothing came from it for this long."""
    success: bool = True


class HeartbeatSource:
    """Answers what agents send while calls go on. For the event loop."""

    def __init__(
        self,
        reader: BodyReader,
        workers: Workers,
        watch: HeartbeatWatch,
        acceptor: Acceptor,
        token: IntakeToken,
        *,
        serves: bool = True,
    ) -> None:
        """Without `serves` only calls are watched that are live from before."""
        self.watch = watch
        self._serves = serves
        self._reader = reader
        self._workers = workers
        self._acceptor = acceptor
        self._token = token

    def routes(self) -> Sequence[Route]:
        """Its routes, if they are served."""
        if not self._serves:
            return ()
        return (
            Route("heartbeat", "POST", "/v1/calls/{call_id}/heartbeat", self._heartbeat),
            Route("turns", "POST", "/v1/calls/{call_id}/turns", self._turns),
        )

    async def _heartbeat(self, request: web.BaseRequest, match: Match) -> Result:
        call_id = read_call_id(match.argument)
        try:
            return await self._respond(request, call_id, turns=False)
        except CallHasEnded:
            return self._answer(Heard(call_id, live=False, turns=0, lost_after_seconds=self.watch.lost_after))

    async def _turns(self, request: web.BaseRequest, match: Match) -> Result:
        try:
            return await self._respond(request, read_call_id(match.argument), turns=True)
        except CallHasEnded:
            hint = "Its call log was accepted: put what is missing there into an update of the call."
            raise Rejection(409, "call_ended", "The call has ended.", hint) from None

    async def _respond(self, request: web.BaseRequest, call_id: str, *, turns: bool) -> Result:
        """Raises `Rejection`, `CallHasEnded`, and what reading and the spool raise."""
        key, tenant = self._token.agents_key(request), self._token.tenant_of(request)
        # It is a sign of life whatever becomes of it: the agent must not seem lost because this gateway is busy.
        self.watch.sign_of_life(call_id, principal_of(tenant, key))
        if (request.content_length or 0) > POST_BYTES:
            raise _too_large()
        with await self._reader.read(request) as body:
            if len(body.data) > POST_BYTES:
                raise _too_large()
            beat = await self._read(body, partial(self._redaction_of, key, tenant), turns=turns)
            heard = beat.of(call_id, self._principal(beat, key, tenant))
            # Not before: whose call it is may stand in the body alone.
            if self._acceptor.is_erased(call_id, heard.principal, beat.agent_id, key):
                raise erased()
            try:
                call = await self.watch.hear(heard, key or self._token.foreign(beat.token))
            except TooMuchLive as error:
                raise _too_much(error) from error
        return self._answer(Heard(call_id, live=True, turns=call.turns, lost_after_seconds=self.watch.lost_after))

    async def _read(self, body: Body, redaction_of: RedactionOf, *, turns: bool) -> Beat:
        """What it says: read here, or in a thread where that takes longer."""
        read = partial(read_beat, body.data, body.scratch, redaction_of, turns=turns)
        if len(body.data) <= _INLINE_BYTES:
            with suppress(Costly):
                return read(ON_THE_LOOP)
        return await self._workers.run(read)

    def _principal(self, beat: Beat, key: str | None, tenant: str | None) -> str:
        """Whose call it is: as `Acceptor.accept` says of the call log of its end."""
        key = key or self._token.foreign(beat.token)
        return self._acceptor.principal_of_agent(principal_of(tenant, key), beat.agent_id, key)

    def _redaction_of(
        self, key: str | None, tenant: str | None, agent_id: str | None, token: str | None
    ) -> Redaction | None:
        return self._acceptor.redaction_of(agent_id, key or self._token.foreign(token), tenant)

    def _answer(self, heard: Heard) -> Result:
        return Result(200, msgspec.json.encode(heard), ANSWERED)


def _too_large() -> Rejection:
    hint = "Post turns as they are said, a few at a time."
    return Rejection(413, "too_large", f"A post of turns may have {POST_BYTES} bytes.", hint, closes=True)


def _too_much(error: TooMuchLive) -> Rejection:
    if error.of_call:
        hint = "The call log of its end may hold more: post that as usual."
        return Rejection(413, "call_too_large", f"This live call has reached a limit: {error}.", hint)
    hint = "Calls that end make room. Let agents post the end of each call."
    return Rejection(429, "too_many_live_calls", f"Too much is live: {error}.", hint, retry_after=_RETRY_SECONDS)

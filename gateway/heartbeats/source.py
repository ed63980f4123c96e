"""`POST /v1/calls/{call_id}/heartbeat` and `POST /v1/calls/{call_id}/turns`: what agents say while a call goes on."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec
from aiohttp import web

from gateway.calllog.shape import ON_THE_LOOP, Costly
from gateway.heartbeats.posts import POST_BYTES, Beat, RedactionOf, read_beat, read_call_id
from gateway.heartbeats.watch import HeartbeatWatch
from gateway.intake.accept import Acceptor, erased
from gateway.intake.body_reader import BodyReader
from gateway.intake.memory import Body
from gateway.intake.responses import Rejection
from gateway.intake.routes import ANSWERED, IntakeToken, Match, Result, Route
from gateway.intake.staging import Workers
from spool.errors import CallHasEnded, TooMuchLive
from spool.records import principal_of
from uploaders.redaction.options import Redaction

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
        if self._acceptor.is_erased(call_id):
            raise erased()
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
        return Rejection(413, "call_too_large", f"No more is kept of this call while it goes on: {error}.", hint)
    hint = "Calls that end make room. Let agents post the end of each call."
    return Rejection(429, "too_many_live_calls", f"Too much is live: {error}.", hint, retry_after=_RETRY_SECONDS)

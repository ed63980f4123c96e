"""The handler of every request: finds its route, counts, and never lets an error out as a 500."""

import time

import structlog
from aiohttp import web

from gateway.intake.ports import IntakeObserver
from gateway.intake.protocol import AdmissionGate
from gateway.intake.responses import JsonResponse, internal, rejection_response, translate
from gateway.intake.routes import ANSWERED, NO_ROUTE, IntakeToken, LoopGuard, Result, Router

_log = structlog.get_logger(__name__)


class IntakeHandler:
    """Answers the requests of agents."""

    def __init__(
        self,
        router: Router,
        gate: AdmissionGate,
        loop_guard: LoopGuard,
        token: IntakeToken,
        observer: IntakeObserver,
    ) -> None:
        self._router = router
        self._gate = gate
        self._loop_guard = loop_guard
        self._token = token
        self._observer = observer

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request. Nothing is raised but a cancellation."""
        started = time.perf_counter()
        name = NO_ROUTE
        try:
            match = self._router.match(request.method, request.rel_url.raw_path)
            name = match.route.name
            self._gate.check()
            if "Via" in request.headers or "Idempotency-Key" in request.headers:
                self._loop_guard.check(request)
            if match.route.needs_token:
                self._token.check(request)
            result = await match.route.respond(request, match)
        except Exception as error:  # noqa: BLE001  # whatever it is, the sender must learn to keep its call log
            rejection = translate(error)
            if rejection is None:
                _log.error("unexpected error in the intake", route=name, exc_info=error)
                rejection = internal()
            self._observer.posted(name, rejection.code)
            return rejection_response(rejection)
        if not isinstance(result, Result):
            return result
        self._observer.posted(name, result.outcome)
        if result.outcome != ANSWERED:
            self._observer.acknowledged(time.perf_counter() - started)
        return JsonResponse(result.status, result.body)

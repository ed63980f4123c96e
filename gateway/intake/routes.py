"""What happens to every request: its route, by method and path, its credentials, and the answer, which is counted."""

import hmac
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web

from gateway.calllog.document import credential
from gateway.intake.admission import AdmissionGate
from gateway.intake.ports import NO_ROUTE, IntakeObserver
from gateway.intake.responses import JsonResponse, Rejection, final_rejection, rejection_response, translate
from gateway.listeners import BrowserFault, browser_fault
from gateway.telemetry import Spans, trace_context
from gateway.tenants import TenantTable

_HINT = (
    "POST /send-call-log, /get-upload-url (any prefix before them), /v1/calls, /v1/calls/batch, "
    "/v1/calls/{call_id}/heartbeat, /v1/calls/{call_id}/turns or /v1/traces; PUT to an upload_url; "
    "GET /v1/calls/{call_id}."
)


class Result(NamedTuple):
    """An answer before it goes over the wire."""

    status: int
    body: bytes
    outcome: str
    """For the observer: accepted, duplicate, superseded, or answered."""

    @property
    def acknowledges(self) -> bool:
        """Whether it says that a call log is durable."""
        return self.outcome != ANSWERED


ANSWERED = "answered"
"""The outcome of a request that posted no call log."""


class Match(NamedTuple):
    """A route with what its path says."""

    route: "Route"
    prefix: str = ""
    """What stands before the route's own path, as it was sent."""
    argument: str = ""
    """The secret or the call id, decoded."""
    via: str | None = None
    """The gateways that passed the request on, as `LoopGuard.check` returns them."""
    trace_context: str | None = None
    """The sender's span, as `trace_context_of` returns it."""


Respond = Callable[[web.BaseRequest, Match], Awaitable[Result | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One way in. Its path is a fixed one (`/v1/calls`), may follow any prefix (`*/send-call-log`), or has an argument
    (`/v1/calls/{call_id}`, `/v1/calls/{call_id}/turns`, `*/uploads/{secret}`)."""

    name: str
    """Labels metrics."""
    method: str
    path: str
    respond: Respond
    """What answers a request of this route. Raises what `responses.translate` knows."""
    needs_token: bool = True
    """Whether the intake's token is checked first."""
    posts: bool = False
    """Whether call logs come by it: each request is a span, where there are any."""


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route], hint: str = _HINT) -> None:
        """`hint` is for whoever asked for a path that there is not."""
        self._hint = hint
        self._fixed: dict[str, list[Route]] = {}
        self._by_last_part: dict[str, list[Route]] = {}
        self._usual: dict[tuple[str, str], Route] = {}
        self._with_argument: list[Route] = []
        for route in routes:
            if "{" in route.path:
                self._with_argument.append(route)
            elif route.path.startswith("*/"):
                self._by_last_part.setdefault(route.path[2:], []).append(route)
                self._usual[route.method, route.path[2:]] = route
            else:
                self._fixed.setdefault(route.path, []).append(route)

    def match(self, method: str, path: str) -> Match:
        """The route of a request; `path` is percent-encoded, as it was sent, and without its query.

        Raises `Rejection`: 404 for an unknown path, 405 for a method that the path does not have.
        """
        prefix, _, last = path.rpartition("/")
        usual = self._usual.get((method, last))
        if usual is not None:
            return Match(usual, prefix)
        known = self._matches(path[:-1] if path.endswith("/") and len(path) > 1 else path)
        for match in known:
            if match.route.method == method:
                return match
        if not known:
            raise Rejection(404, "no_such_route", "There is nothing at this path.", self._hint)
        allowed = ", ".join(match.route.method for match in known)
        raise Rejection(
            405, "wrong_method", f"This path takes {allowed}, not {method[:20]}.", self._hint, allow=allowed
        )

    def _matches(self, path: str) -> list[Match]:
        """What the path alone allows; what follows any prefix comes before everything else."""
        prefix, _, last = path.rpartition("/")
        if (routes := self._by_last_part.get(last)) is not None:
            return [Match(route, prefix) for route in routes]
        matches = [Match(route) for route in self._fixed.get(path, ())]
        for route in self._with_argument:
            parent, _, rest = route.path.partition("/{")
            suffix = rest.partition("}")[2]
            if not parent.startswith("*/"):
                if path.startswith(f"{parent}/") and path.endswith(suffix) and len(path) > len(parent) + len(suffix):
                    matches.append(Match(route, argument=unquote(path[len(parent) + 1 : len(path) - len(suffix)])))
            elif prefix.endswith(parent[1:]):
                matches.append(Match(route, prefix.removesuffix(parent[1:]), unquote(last)))
        return matches


# Credentials of a request: the intake's own token, and the agent's key that destinations may be sent.
#
# The SDK has one header for a key, `x-pype-token`. Where the intake has a token of its own and the header equals
# it, the header is the intake's credential and never leaves this process; only a `token` in the body is then the
# agent's key. An agent that has both sends the intake's token as a bearer, and its key in the header.

HEADER = "x-pype-token"


class IntakeToken:
    """The token that agents must present.

    With None every request is let in that no browser was made to send: without a token, a web page could post, and
    read traces. `hosts` are names of this listener. Where `tenants` have tokens, each of these lets in, too.
    """

    def __init__(self, token: str | None, hosts: Iterable[str] = (), tenants: TenantTable | None = None) -> None:
        self._token = token.encode() if token is not None else None
        self._tenants = tenants
        self._open = token is None and not (tenants and tenants.has_tokens)
        self._hosts = frozenset(host.lower() for host in hosts)

    def check(self, request: web.BaseRequest) -> None:
        """Return if the request may come in; raises `Rejection` (401, 403 or 421) otherwise."""
        if self._open:
            self._check_browser(request)
            return
        if self._equals(request.headers.get(HEADER)) or self._equals(_bearer_of(request)):
            return
        if self.tenant_of(request) is not None:
            return
        raise Rejection(
            401,
            "unauthorized",
            "The intake's token is missing or wrong.",
            f"Send the token of this gateway's configuration as {HEADER} or as Authorization: Bearer.",
        )

    def _check_browser(self, request: web.BaseRequest) -> None:
        fault = browser_fault(request.headers, self._hosts)
        if fault is BrowserFault.HOST:
            hint = "Post to an address, or add the name to intake.hosts (CALLSPOOL_INTAKE_HOSTS), or set intake.token."
            raise Rejection(421, "unknown_host", "This gateway does not serve this host name.", hint)
        if fault is BrowserFault.CROSS_SITE:
            hint = "Set intake.token and send it, or post from a program that sends no Origin."
            raise Rejection(403, "cross_site", "Pages of other sites are not allowed to post here.", hint)

    def tenant_of(self, request: web.BaseRequest) -> str | None:
        """The tenant whose token it presents."""
        if self._tenants is None:
            return None
        return self._tenants.of_token(request.headers.get(HEADER)) or self._tenants.of_token(_bearer_of(request))

    def tenant_of_key(self, key: str | None) -> str | None:
        """The tenant whose token it is."""
        return None if self._tenants is None else self._tenants.of_token(key)

    def presented_by(self, request: web.BaseRequest) -> str | None:
        """The tenant's token that it presents."""
        header, bearer = request.headers.get(HEADER), _bearer_of(request)
        return header if self._tenants and self._tenants.of_token(header) else bearer

    def agents_key(self, request: web.BaseRequest) -> str | None:
        """The agent's own key from the header, if it is one and not the intake's token."""
        return self.foreign(request.headers.get(HEADER))

    def foreign(self, key: str | None) -> str | None:
        """The key, if it is a credential and not one of the intake's own tokens."""
        if key is None or self._equals(key) or (self._tenants is not None and self._tenants.of_token(key)):
            return None
        return credential(key)

    def _equals(self, presented: str | None) -> bool:
        if self._token is None or presented is None:
            return False
        return hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), self._token)


def _bearer_of(request: web.BaseRequest) -> str | None:
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else None


# Loops: a gateway whose endpoint is its own intake would deliver to itself, be answered "duplicate", and delete the
# only copy; two that deliver to each other would do so together. So what a gateway sends carries the marks of all
# gateways that passed it on, a record keeps those that it came with, and what carries the own mark is refused.

MOST_GATEWAYS = 16
"""So many may pass a call log on, one after the other."""
_PSEUDONYM = re.compile(r"callspool-[0-9a-f]{8}")
_DELIVERY_KEY = re.compile(r"([0-9a-f]{8})-[0-9]{1,18}-[a-z]+")


def via_pseudonym(spool_id: str) -> str:
    """What a gateway is called in `Via` (RFC 9110, 7.6.3): `Via: 1.1 callspool-ID`."""
    return f"callspool-{spool_id}"


def trace_context_of(request: web.BaseRequest) -> str | None:
    """The sender's span, for the record to keep and for each delivery to carry on: `traceparent`, and behind a space
    `tracestate`. What is malformed is left out, as W3C Trace Context asks: it is no reason to refuse a call log."""
    parents = request.headers.getall("traceparent")
    if len(parents) != 1:
        return None
    return trace_context(parents[0], ",".join(request.headers.getall("tracestate", ())))


class LoopGuard:
    """Recognises what this gateway sent before, through whatever proxies and other gateways it came back."""

    def __init__(self, spool_id: str) -> None:
        self._own = via_pseudonym(spool_id)

    def check(self, request: web.BaseRequest) -> str | None:
        """The gateways that passed the request on, for the record to keep. Raises `Rejection` (508) in a loop.

        A proxy may remove `Via`, but not the idempotency key, which begins with the id of the spool that sent it.
        """
        headers = request.headers
        gateways = gateways_in(headers.getall("Via", ()))
        if self._own in gateways:
            raise _loop_detected("Via")
        key = _DELIVERY_KEY.fullmatch(headers.get("Idempotency-Key", ""))
        sender = None if key is None else via_pseudonym(key[1])
        if sender == self._own:
            raise _loop_detected("Idempotency-Key")
        if sender is not None and sender not in gateways:
            gateways.append(sender)
        if len(gateways) > MOST_GATEWAYS:
            raise Rejection(
                508,
                "too_many_gateways",
                f"More than {MOST_GATEWAYS} gateways passed the request on, as Via says.",
                "Set the destinations' addresses so that fewer gateways are in front of the endpoint.",
            )
        return via_text(gateways)


def gateways_in(lines: Iterable[str]) -> list[str]:
    """The pseudonyms of gateways that `Via` lists, each once; the names of proxies, and comments, are left out."""
    members = [member.split() for line in lines for member in line.split(",")]
    names = [words[1].lower() for words in members if len(words) > 1]
    return list(dict.fromkeys(filter(_PSEUDONYM.fullmatch, names)))


def via_text(gateways: Iterable[str]) -> str | None:
    """The gateways as a record keeps them, and as they are sent on; None for none."""
    return ", ".join(f"1.1 {name}" for name in gateways) or None


def _loop_detected(header: str) -> Rejection:
    return Rejection(
        508,
        "loop_detected",
        f"This gateway sent it before, as {header} says: a destination leads back to its intake.",
        "Set the address of the destination that sends here to the endpoint that is to get the call logs; until then "
        "they stay in the spool.",
    )


# The handler of every request. It never lets an error out as a 500 of aiohttp's.


class IntakeHandler:
    """Answers the requests of agents."""

    def __init__(
        self,
        router: Router,
        gate: AdmissionGate,
        loop_guard: LoopGuard,
        token: IntakeToken,
        observer: IntakeObserver,
        spans: Spans | None = None,
    ) -> None:
        self._spans = spans
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
                match = match._replace(via=self._loop_guard.check(request))
            if "traceparent" in request.headers:
                match = match._replace(trace_context=trace_context_of(request))
            if match.route.needs_token:
                self._token.check(request)
            traced = self._spans is not None and match.route.posts
            result = await (self._respond_in_span(request, match) if traced else match.route.respond(request, match))
        except Exception as error:  # noqa: BLE001  # whatever it is, the sender must learn to keep its call log
            rejection = final_rejection(error, "unexpected error in the intake", route=name)
            self._observer.posted(name, rejection.code)
            return rejection_response(rejection)
        if not isinstance(result, Result):
            if isinstance(result, web.Response):  # what is streamed is a batch, which counts its lines
                self._observer.posted(name, ANSWERED)
            return result
        self._observer.posted(name, result.outcome)
        if result.outcome != ANSWERED:
            self._observer.acknowledged(time.perf_counter() - started)
        return JsonResponse(result.status, result.body)

    async def _respond_in_span(self, request: web.BaseRequest, match: Match) -> Result | web.StreamResponse:
        """What the route responds, and raises; its trace context is then that of the post's span."""
        route = match.route
        post = None if self._spans is None else self._spans.post(match.trace_context)
        if post is None:
            return await route.respond(request, match)
        status, outcome = 499, "gone"
        try:
            with post:
                result = await route.respond(request, match._replace(trace_context=post.trace_context))
            status, outcome = result.status, result.outcome if isinstance(result, Result) else ANSWERED
        except Exception as error:
            rejection = translate(error)
            status, outcome = (rejection.status, rejection.code) if rejection else (500, "internal")
            raise
        else:
            return result
        finally:
            post.ended(route.name, route.method, status, outcome)

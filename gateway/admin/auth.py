"""Who asks the admin listener, and whether they may: tokens, sessions, peers of a Unix socket, this machine.

What each route needs is in `gateway.admin.permissions`. A token has a role; the random one in the spool's directory,
which the command line reads by itself, has the highest. Over a Unix socket the kernel says which user asks: the
gateway's own and root have the highest role, too, since they can read that token. An address is no identity: other
users of the machine, and proxies on it, come from loopback too. Requests that a browser was made to send, by a page of
another site or a rebound name, are refused on every route.
"""

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import structlog
from aiohttp import web

from gateway.admin.answers import refused
from gateway.admin.audit import AuditLog, audited
from gateway.admin.permissions import OPEN, PAGES, Role, Rule, rule_of
from gateway.listeners import BrowserFault, Peer, browser_fault, peer_of

# Sessions of browsers: a person presents a token once, and a cookie stands for it.
#
# The cookie is a random name, nothing else: HttpOnly, so that no script reads it, and SameSite=Strict, so that no page
# of another site makes a browser send it. An order must carry the session's CSRF token besides, which only our own
# pages know. A session lasts for a working day, until it is closed, its token is no longer configured, or the gateway
# restarts.

CSRF_HEADER = "X-CSRF-Token"
LIFETIME_SECONDS = 12 * 3600.0
MOST = 200
"""Sessions at once; the oldest goes for the next."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser whose person presented a token."""

    token_digest: bytes
    csrf: str
    ends_at: float

    def allows_order(self, request: web.Request) -> bool:
        """Whether a request that changes something was made by our own page."""
        return hmac.compare_digest(self.csrf.encode(), request.headers.get(CSRF_HEADER, "").encode("utf-8", "replace"))


class Sessions:
    """The sessions of one listener, by the hash of their cookies."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[bytes, Session] = {}

    def begin(self, token_digest: bytes) -> str:
        """Begin a session for who presented this token; returns the value of its cookie."""
        now = self._clock()
        self._open = {key: each for key, each in self._open.items() if each.ends_at > now}
        if len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        cookie = secrets.token_urlsafe(32)
        self._open[_key(cookie)] = Session(token_digest, secrets.token_urlsafe(32), now + LIFETIME_SECONDS)
        return cookie

    def of(self, request: web.Request) -> Session | None:
        """The session that the cookie of a request stands for."""
        cookie = request.cookies.get(cookie_name(request))
        found = self._open.get(_key(cookie)) if cookie else None
        return found if found is not None and found.ends_at > self._clock() else None

    def end(self, request: web.Request) -> None:
        """End the session of a request, if it has one."""
        self._open.pop(_key(request.cookies.get(cookie_name(request), "")), None)


def cookie_name(request: web.Request) -> str:
    """With the port: browsers send a cookie to every port of a host, and each may be another gateway."""
    return f"callspool-session-{request.url.port or 0}"


def set_cookie(response: web.StreamResponse, request: web.Request, cookie: str) -> None:
    """Have the browser keep it; an empty one ends."""
    response.set_cookie(
        cookie_name(request), cookie, httponly=True, samesite="Strict", path="/", secure=request.secure,
        max_age=int(LIFETIME_SECONDS) if cookie else 0,
    )  # fmt: skip


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()


TOKEN_FILE = "admin-token"
"""In the directory of the spool; `gateway.cli.client` knows the name too, without the web server."""
LOG_SECONDS = 60.0
"""How often refused tokens are logged."""

_log = structlog.get_logger("callspool.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TENANTS_PATHS = ("/api/calls", "/api/live-calls", "/calls", "/similar")
_PROXY_HEADERS = ("Forwarded", "Via", "X-Real-IP")


class GuessLimit:
    """Limits how many tokens each address may try: `burst` at once, and one more every `seconds`."""

    MOST = 1000
    """How many addresses are remembered; while there are more at once, unknown ones may try nothing."""

    def __init__(self, burst: int = 10, seconds: float = 6.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._free_at: dict[str, float] = {}
        """For each address, when all of its tries are free again."""

    def allows(self, address: str) -> bool:
        """Whether this address may try another token."""
        now, sender = self._clock(), _sender(address)
        if sender not in self._free_at and len(self._free_at) >= self.MOST:
            self._free_at = {each: at for each, at in self._free_at.items() if at > now}
            return len(self._free_at) < self.MOST
        return self._free_at.get(sender, 0.0) - now <= (self._burst - 1) * self._seconds

    def failed(self, address: str) -> None:
        """Count a wrong token of this address. While `MOST` addresses are remembered, no other one is added."""
        now, sender = self._clock(), _sender(address)
        if sender in self._free_at or len(self._free_at) < self.MOST:
            self._free_at[sender] = max(now, self._free_at.get(sender, now)) + self._seconds


def _sender(address: str) -> str:
    """What addresses that one sender can have at will are counted as: loopback, and an IPv6 network."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.is_loopback:
        return "loopback"
    return str(found) if found.version == 4 else found.exploded[:19]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    role: Role | None
    """None for somebody without a token."""
    who: str
    """`token 1a2b3c4d`, `the spool's token`, `uid 1000` or `anonymous`."""
    peer: Peer
    tenant: str | None = None
    """Whose calls it may see, and nothing else; None for everybody's."""
    session: Session | None = None
    """Of a browser whose cookie stands for the token."""


CALLER = web.RequestKey("caller", Caller)
"""Under which a request that was let in holds its caller."""
REFUSAL = web.RequestKey("refusal", web.Response)
"""Under which a request for a page holds why it may not be shown: the page says so, and offers to sign in."""


@dataclass(frozen=True, slots=True)
class _Token:
    digest: bytes
    role: Role
    who: str
    tenant: str | None = None


def token_id(token: str) -> str:
    """What the audit log calls a token: the beginning of its SHA-256."""
    return hashlib.sha256(token.encode()).hexdigest()[:8]


class Access:
    """Lets requests through to a handler, or refuses them; logs and counts refused tokens.

    `tokens` are those of the configuration, by role; those of `tenants` show the calls of their own tenant alone.
    `hosts` are names that the listener may be asked by, `refused` is called with the reason of each refusal.
    `spool_token`, once the spool is open, has the role `admin`.
    """

    def __init__(
        self,
        tokens: Mapping[Role, Iterable[str]] | None = None,
        *,
        audit: AuditLog | None = None,
        hosts: Iterable[str] = (),
        refused: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        tenants: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.accept_tokens(tokens or {}, tenants or {})
        self._spool_digest: bytes | None = None
        self._audit = audit or AuditLog()
        self._hosts = frozenset(host.lower() for host in hosts)
        self._refused = refused
        self._clock = clock
        self._guesses = GuessLimit(clock=clock)
        self.sessions = Sessions(clock)
        self._unlogged = 0
        self._log_at = 0.0

    def accept_tokens(self, tokens: Mapping[Role, Iterable[str]], tenants: Mapping[str, Iterable[str]]) -> None:
        """Accept these tokens from now on, instead of those of the configuration before."""
        self._tokens = [
            _Token(_digest(each), role, f"token {token_id(each)}") for role, them in tokens.items() for each in them
        ]
        self._tokens += [
            _Token(_digest(each), Role.READ, f"token {token_id(each)} of {name}", name)
            for name, them in tenants.items()
            for each in them
        ]

    def accept_spool_token(self, token: str) -> None:
        """Accept the random token of the spool's directory from now on."""
        self._spool_digest = _digest(token)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what may not be asked, whatever the route; note in the audit log what that is for."""
        refusal = self._browser_refusal(request)
        if refusal is not None:
            return refusal
        resource = request.match_info.route.resource
        rule = OPEN if resource is None else rule_of(request.method, resource.canonical)
        if rule.role is None:  # or there is no such path, or no such method
            return await handler(request)
        caller = _type_refusal(rule, request) or self._identify(request)
        if isinstance(caller, web.Response):
            return caller
        refusal = self._refusal(rule, rule.role, caller, request) or self._narrower_refusal(rule, caller, request)
        if refusal is None:
            request[CALLER] = caller
        elif rule.is_page:
            request[REFUSAL] = refusal
            return await handler(request)
        # What nobody in particular reads without a token holds no call log.
        if not rule.action or (caller.role is None and (refusal is not None or not rule.is_order)):
            return await handler(request) if refusal is None else refusal
        role = caller.role.word if caller.role else None
        peer = caller.peer
        who = {"role": role, "who": caller.who, "from": peer.address, "certificate": peer.certificate}
        return await audited(self._audit, rule.action, who, request, handler, refusal)

    def may_see_calls(self, request: web.Request) -> bool:
        """Whether an open route may answer with what a list of calls would."""
        caller = self._identify(request)
        if isinstance(caller, web.Response):
            return False
        return (caller.role is not None and caller.tenant is None) or (
            not self._tokens and _comes_from_this_machine(request, caller.peer)
        )

    def caller_of(self, request: web.Request) -> Caller | None:
        """Who asks for an open route; None where a token is presented that is none."""
        caller = self._identify(request)
        return caller if isinstance(caller, Caller) else None

    def sign_in(self, request: web.Request, token: str) -> str | web.Response:
        """Begin a session for whoever presents this token: the value of its cookie, or the refusal."""
        peer = peer_of(request.transport)
        caller = self._by_token(token, peer)
        outcome = "done" if isinstance(caller, Caller) else "refused"
        who = caller.who if isinstance(caller, Caller) else "anonymous"
        self._audit.record({"action": "sign-in", "who": who, "from": peer.address, "outcome": outcome})
        return caller if isinstance(caller, web.Response) else self.sessions.begin(_digest(token))

    def _identify(self, request: web.Request) -> Caller | web.Response:
        """Who asks; the refusal where a token is presented that is none."""
        peer = peer_of(request.transport)
        bearer = _bearer_of(request)
        if bearer:
            return self._by_token(bearer, peer)
        session = self.sessions.of(request)
        found = None if session is None else self._matching(session.token_digest, peer)
        if found is not None:  # unless its token is no longer configured
            return replace(found, session=session)
        if peer.is_own_user and not _is_proxied(request):
            return Caller(Role.ADMIN, f"uid {peer.uid}", peer)
        return Caller(None, "anonymous" if peer.uid is None else f"uid {peer.uid}", peer)

    def _by_token(self, bearer: str, peer: Peer) -> Caller | web.Response:
        digest = _digest(bearer)
        # The random one cannot be guessed, so it is checked first and never limited: guesses lock no operator out.
        if self._is_spools(digest):
            return Caller(Role.ADMIN, "the spool's token", peer)
        sender = peer.address
        if self._tokens and not self._guesses.allows(sender):
            self._report("too_many_guesses", sender)
            message = "Too many wrong tokens came from this address."
            return refused(429, "too_many_guesses", message, _TOKEN_HINT, headers={"Retry-After": "6"})
        found = self._matching(digest, peer)
        if found is not None:
            return found
        self._guesses.failed(sender)
        if self._spool_digest is None:
            message = "The gateway is starting: which token its spool's directory holds is not known yet."
            return refused(503, "starting", message, "Ask again in a moment.", headers={"Retry-After": "1"})
        self._report("wrong_token", sender)
        return refused(401, "unauthorized", "The admin token is wrong.", _TOKEN_HINT)

    def _is_spools(self, digest: bytes) -> bool:
        return self._spool_digest is not None and hmac.compare_digest(digest, self._spool_digest)

    def _matching(self, digest: bytes, peer: Peer) -> Caller | None:
        """Who holds the token with this digest. Each is compared, whether one before it matched or not."""
        if self._is_spools(digest):
            return Caller(Role.ADMIN, "the spool's token", peer)
        matching = [token for token in self._tokens if hmac.compare_digest(digest, token.digest)]
        return Caller(matching[0].role, matching[0].who, peer, matching[0].tenant) if matching else None

    def _refusal(self, rule: Rule, needed: Role, caller: Caller, request: web.Request) -> web.Response | None:
        """Why this caller may not come in; None if it may."""
        if caller.role is not None:
            if caller.role >= needed:
                return None
            self._refused("role")
            message = f"This needs the role {needed.word}; the token that came has the role {caller.role.word}."
            return refused(403, "role_needed", message, _TOKEN_HINT)
        if not rule.local or self._tokens:
            self._refused("no_token")
            message = f"This needs a token of the role {needed.word}."
            return refused(401, "unauthorized", message, _TOKEN_HINT)
        if _comes_from_this_machine(request, caller.peer):
            return None
        self._refused("remote")
        message = f"Without a token ({needed.word}), only this machine may do this, directly and by its own address."
        return refused(403, "local_only", message, _TOKEN_HINT)

    def _narrower_refusal(self, rule: Rule, caller: Caller, request: web.Request) -> web.Response | None:
        """Why somebody with the role may not come in all the same: another tenant's, or not sent by our page."""
        resource = request.match_info.route.resource
        if caller.tenant is not None and (resource is None or not resource.canonical.startswith(_TENANTS_PATHS)):
            self._refused("tenant")
            return refused(403, "tenants_calls_only", "This token shows the calls of its tenant.", _TOKEN_HINT)
        if rule.is_order and caller.session and not caller.session.allows_order(request):
            self._refused("csrf")
            message = f"An order of a browser's session needs the header {CSRF_HEADER}, as its page has it."
            return refused(403, "csrf", message, "Reload the page, and give the order again.")
        return None

    def _report(self, reason: str, address: str) -> None:
        """Count a refused token, and log at most one line a minute about all of them."""
        self._refused(reason)
        self._unlogged += 1
        if self._clock() >= self._log_at:
            _log.warning("admin_token_refused", attempts=self._unlogged, last_from=address, reason=reason)
            self._unlogged, self._log_at = 0, self._clock() + LOG_SECONDS

    def _browser_refusal(self, request: web.Request) -> web.Response | None:
        fault = browser_fault(request.headers, self._hosts)
        # A link to one of our pages is no harm: the page that has it learns nothing, and no cookie goes along.
        resource = request.match_info.route.resource
        is_page = resource is not None and f"{request.method} {resource.canonical}" in PAGES
        follows_link = is_page and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if fault is None or (fault is BrowserFault.CROSS_SITE and follows_link and "Origin" not in request.headers):
            return None
        self._refused(fault.value)
        if fault is BrowserFault.HOST:
            hint = "Ask by an address, or add the name to admin.hosts (CALLSPOOL_ADMIN_HOSTS)."
            return refused(421, "unknown_host", "This listener does not serve this host name.", hint)
        hint = "Use the `callspool` command line, or a client that sends no Origin."
        return refused(403, "cross_site", "Pages of other sites are not allowed to do this.", hint)


def _type_refusal(rule: Rule, request: web.Request) -> web.Response | None:
    if not rule.content_type or request.content_type == rule.content_type:
        return None
    hint = f"Send it with `Content-Type: {rule.content_type}`."
    return refused(415, "wrong_type", f"This accepts {rule.content_type}, not {request.content_type}.", hint)


def _bearer_of(request: web.Request) -> str:
    """The token that it presents; empty where it presents none."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else ""


def _comes_from_this_machine(request: web.Request, peer: Peer) -> bool:
    """Whether it came over loopback or a Unix socket, by no proxy: a proxy on this machine lets others in."""
    return (peer.is_unix or peer.address in {"127.0.0.1", "::1"}) and not _is_proxied(request)


def _is_proxied(request: web.Request) -> bool:
    """Whether a proxy says that it passes on the request of somebody else."""
    return any(name in request.headers for name in _PROXY_HEADERS) or any(
        name.lower().startswith("x-forwarded") for name in request.headers
    )


def _digest(token: str) -> bytes:
    """Of one length for all tokens, so that comparing takes the same time for each."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


_TOKEN_HINT = (
    f"Present a token of the configuration (CALLSPOOL_ADMIN_TOKEN), or that in the file {TOKEN_FILE} of the spool's "
    "directory, as `Authorization: Bearer ...`. The command line reads that file by itself where CALLSPOOL_SPOOL_DIR "
    "or the configuration names the directory."
)


# The random token: who can read the spool's directory can read the call logs anyway.


def make_local_token(directory: Path) -> str:
    """The token in `directory`, made at the first start; made anew where others could have written or read it."""
    path = directory / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return _new_token(path)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        token = file.read(200).decode("ascii", "replace").strip()
    private = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077
    if not private or len(token) < 32 or not token.isascii():
        _log.warning("admin_token_replaced", file=str(path), reason="others could have read or written it")
        return _new_token(path)
    return token


def _new_token(path: Path) -> str:
    token = secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(f"{token}\n")
    return token

"""Who may do what at the admin listener.

Three kinds of routes. *Open*: health, metrics and the figures of the status page. *Local*: lists and traces, and orders
that lose nothing, for requests from this machine itself, or with a token. *Protected*: what hands out call logs, sends
them elsewhere or with another key, or gives them up, never without a token.

The token is the one of the configuration, or the random one in the spool's directory, which the command line reads by
itself. An address is no identity: other users of the machine, and proxies on it, come from loopback too. Requests that
a browser was made to send, by a page of another site or a rebound name, are refused on every route.
"""

import hmac
import os
import secrets
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType

import msgspec
import structlog
from aiohttp import web

from gateway.hosts import BrowserFault, browser_fault

TOKEN_FILE = "admin-token"
"""In the directory of the spool; `gateway.cli.client` knows the name too, without the web server."""
LOG_SECONDS = 60.0
"""How often refused tokens are logged."""

_log = structlog.get_logger("callspool.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

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
        """This address tried a wrong one."""
        now, sender = self._clock(), _sender(address)
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


class Access:
    """Lets requests through to a handler, or refuses them; logs and counts refused tokens.

    `token` is that of the configuration, `hosts` are names that the listener may be asked by, `refused` is called
    with the reason of each refusal.
    """

    def __init__(
        self,
        token: str | None = None,
        *,
        hosts: Iterable[str] = (),
        refused: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.local_token: str | None = None
        """The random one; None until the spool is open."""
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)
        self._refused = refused
        self._clock = clock
        self._guesses = GuessLimit(clock=clock)
        self._unlogged = 0
        self._log_at = 0.0

    @web.middleware
    async def check_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses, for every route, what a browser was made to send."""
        return self._browser_refusal(request) or await handler(request)

    def local(self, handler: Handler) -> Handler:
        """Protects a route that shows calls, or gives an order that loses nothing."""
        return self._checked(handler, always=False)

    def protected(self, handler: Handler) -> Handler:
        """Protects a route that hands out what call logs hold, or that cannot be undone."""
        return self._checked(handler, always=True)

    def order(self, handler: Handler, content_type: str = "application/json", *, protected: bool = False) -> Handler:
        """Protects a route that changes something: no page of another site can post its content type."""
        allowed = self._checked(handler, always=protected)

        async def checked(request: web.Request) -> web.StreamResponse:
            """Refuse, or go on."""
            if request.content_type != content_type:
                hint = f"Send it with `Content-Type: {content_type}`."
                return refused(415, "wrong_type", f"This accepts {content_type}, not {request.content_type}.", hint)
            return await allowed(request)

        return checked

    def may_see_calls(self, request: web.Request) -> bool:
        """Whether an open route may answer with what a local one would."""
        bearer = _bearer_of(request)
        if bearer:
            return self._token_refusal(bearer, request.remote or "") is None
        return self._token is None and _comes_from_this_machine(request)

    def _checked(self, handler: Handler, *, always: bool) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            """Refuse, or go on."""
            return self._refusal(request, always=always) or await handler(request)

        return checked

    def _refusal(self, request: web.Request, *, always: bool) -> web.Response | None:
        """Why this request may not come in; None if it may."""
        if bearer := _bearer_of(request):
            return self._token_refusal(bearer, request.remote or "")
        if always or self._token is not None:
            self._refused("no_token")
            return _unauthorized("This needs the admin token.")
        if _comes_from_this_machine(request):
            return None
        self._refused("remote")
        message = "Without the admin token, only this machine may do this, directly and by its own address."
        return refused(403, "local_only", message, _TOKEN_HINT)

    def _token_refusal(self, bearer: str, address: str) -> web.Response | None:
        # The random one cannot be guessed, so it is checked first and never limited: guesses lock no operator out.
        if _equal(bearer, self.local_token):
            return None
        if self._token is not None and not self._guesses.allows(address):
            self._report("too_many_guesses", address)
            message = "Too many wrong tokens came from this address."
            return refused(429, "too_many_guesses", message, _TOKEN_HINT, headers={"Retry-After": "6"})
        if _equal(bearer, self._token):
            return None
        self._guesses.failed(address)
        self._report("wrong_token", address)
        return _unauthorized("The admin token is wrong.")

    def _report(self, reason: str, address: str) -> None:
        """Count a refused token, and log at most one line a minute about all of them."""
        self._refused(reason)
        self._unlogged += 1
        if self._clock() >= self._log_at:
            _log.warning("admin_token_refused", attempts=self._unlogged, last_from=address, reason=reason)
            self._unlogged, self._log_at = 0, self._clock() + LOG_SECONDS

    def _browser_refusal(self, request: web.Request) -> web.Response | None:
        fault = browser_fault(request.headers, self._hosts)
        # A link to the status page is no harm: the page that has it learns nothing.
        follows_link = request.path == "/" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if fault is None or (fault is BrowserFault.CROSS_SITE and follows_link and "Origin" not in request.headers):
            return None
        self._refused(fault.value)
        if fault is BrowserFault.HOST:
            hint = "Ask by an address, or add the name to admin.hosts (CALLSPOOL_ADMIN_HOSTS)."
            return refused(421, "unknown_host", "This listener does not serve this host name.", hint)
        hint = "Use the `callspool` command line, or a client that sends no Origin."
        return refused(403, "cross_site", "Pages of other sites are not allowed to do this.", hint)


def _bearer_of(request: web.Request) -> str:
    """The token that it presents; empty where it presents none."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else ""


def _comes_from_this_machine(request: web.Request) -> bool:
    """Whether it came over the loopback interface, by no proxy: a proxy on this machine lets others in."""
    proxied = any(name in request.headers for name in _PROXY_HEADERS)
    return (
        request.remote in {"127.0.0.1", "::1"}
        and not proxied
        and not any(name.lower().startswith("x-forwarded") for name in request.headers)
    )


def _equal(presented: str, token: str | None) -> bool:
    """Whether both are the same, in constant time."""
    return token is not None and hmac.compare_digest(presented.encode("utf-8", "surrogateescape"), token.encode())


_TOKEN_HINT = (
    f"Present the token of admin.token (CALLSPOOL_ADMIN_TOKEN), or that in the file {TOKEN_FILE} of the spool's "
    "directory, as `Authorization: Bearer ...`. The command line reads that file by itself where CALLSPOOL_SPOOL_DIR "
    "or the configuration names the directory."
)


def _unauthorized(message: str) -> web.Response:
    return refused(401, "unauthorized", message, _TOKEN_HINT)


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


# How the admin listener answers: JSON documents, and errors that say what happened and what to do.

_encode = msgspec.json.Encoder().encode

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
"""Stand in every answer."""


class _Error(msgspec.Struct):
    code: str
    message: str
    hint: str


class _Refused(msgspec.Struct):
    error: _Error
    success: bool = False


def answer(
    document: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    """A document as JSON."""
    sent = {**HEADERS, **headers}
    return web.Response(body=_encode(document), status=status, content_type="application/json", headers=sent)


def refused(
    status: int, code: str, message: str, hint: str, headers: Mapping[str, str] = MappingProxyType({})
) -> web.Response:
    """An error, in the shape that all errors of the gateway have."""
    return answer(_Refused(_Error(code, message, hint)), status=status, headers=headers)

"""The listeners of a gateway or a worker: the admin listener, certificates, and what a start says of all of them."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Final

import structlog
from aiohttp import web

from config.listeners import AdminSettings, ListenerTable
from config.settings import Settings, listeners_of
from config.types import format_path
from config.values import ListenAddress
from gateway.fanout import StoredAs, plan
from gateway.intake.server import IntakeServer
from gateway.listeners import CannotListen, Listener
from gateway.logs import announce
from gateway.process import port_owner
from gateway.runtime.destinations import is_store, route_of
from gateway.runtime.options import listen_options, tls_files
from gateway.tls import CertificateUnusable, ServerTls
from spool.records import Form
from uploaders.tasks import Tasks

CERTIFICATE_SECONDS = 1.0
"""How often to look for renewed certificates: a few `stat` calls."""
_BACKLOG = 128

_log = structlog.get_logger("callspool")


def tls_of(settings: Settings) -> dict[str, ServerTls]:
    """The TLS of the listeners that have any, by section. Raises `CertificateUnusable`."""
    files = {section: tls_files(listener) for section, listener in listeners_of(settings).items()}
    return {section: ServerTls(each) for section, each in files.items() if each is not None}


@contextlib.asynccontextmanager
async def admin_listener(
    app: web.Application, settings: AdminSettings, tls: ServerTls | None
) -> AsyncIterator[Listener]:
    """Serve this application where the settings say. Raises `CannotListen`."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None, "made by setup"
    listener = Listener(listen_options(settings), runner.server, _BACKLOG)
    try:
        with listening_at(settings.listen, "admin"):
            await listener.start(tls.context if tls else None)
        _log.info("starting", admin=url_of(settings, listener.port))
        yield listener
    finally:
        listener.close()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def certificates_followed(
    tls: Mapping[str, ServerTls], listening: Callable[[], Mapping[str, Listener | IntakeServer]]
) -> AsyncIterator[None]:
    """Present the certificates that the files hold at any time: a renewal needs no restart.

    `listening` gives what listens now, by section.
    """
    following = Tasks()
    following.keep(partial(_follow, tls, listening))
    try:
        yield
    finally:
        await following.cancel()


async def _follow(tls: Mapping[str, ServerTls], listening: Callable[[], Mapping[str, Listener | IntakeServer]]) -> None:
    owed: set[str] = set()
    while tls:
        await asyncio.sleep(CERTIFICATE_SECONDS)
        for section, each in tls.items():
            try:
                if not await asyncio.to_thread(each.changed) and section not in owed:
                    continue
                listener = listening().get(section)
                if listener is not None:
                    await listener.replace_tls(each.context)
            except OSError as error:
                if section not in owed:
                    hint = "the certificate before is presented until this works"
                    _log.error("certificate_not_reloaded", listener=section, reason=str(error), what_happens=hint)
                owed.add(section)
                continue
            except CertificateUnusable as error:
                hint = "the certificate before is presented still"
                _log.error("certificate_unusable", listener=section, reason=str(error), what_happens=hint)
                continue
            owed.discard(section)
            _log.info("certificate_reloaded", listener=section)


# What a start says: where to post, where the page is, what is delivered where; or why it cannot listen.

_FORMS: Final = {
    Form.WHOLE: "call logs",
    Form.CORE: "cores",
    Form.DETAIL: "details",
    Form.REDUCED: "reduced details",
    Form.NOTICE: "notices",
}
_ANY_INTERFACE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@contextlib.contextmanager
def listening_at(address: ListenAddress, section: str) -> Iterator[None]:
    """Turn what the system says against listening at the address of `section` into `CannotListen`."""
    try:
        yield
    except OSError as error:
        setting = f"{section}.listen (CALLSPOOL_{section.upper()}_LISTEN)"
        if error.errno != errno.EADDRINUSE or address.path is not None:
            said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            said = said if address.path is None else error.strerror or said
            raise CannotListen(f"cannot listen at {address}, which {setting} names: {said}") from error
        owner = port_owner(address.port)
        who = f"by {owner}" if owner else "most likely by another callspool (`ss -ltnp` shows whose it is)"
        raise CannotListen(
            f"{address} is already in use {who}: end that process, or set {setting} to another address"
        ) from error


def introduce(
    settings: Settings, intake_port: int, admin_port: int, webhooks_port: int | None, spool_bytes: int, *, first: bool
) -> None:
    """Say that it runs and where everything is: in plain lines for people, else as the fields of one message.

    The `first` start of a spool says what to try.
    """
    intake, page = url_of(settings.intake, intake_port), f"{url_of(settings.admin, admin_port)}/"
    deliveries = list(_deliveries(settings))
    spool = format_path(settings.spool.dir)
    rows = [("Post call logs to", f"{intake}/v1/calls"), ("or, with the SDK", f"{intake}/send-call-log")]
    if settings.otlp.enabled:
        rows += [("or spans, by OTLP", f"{intake}/v1/traces")]
    hooks: dict[str, str] = {}
    if settings.webhooks.listen is not None and webhooks_port is not None:
        base = settings.webhooks.public_url or url_of(settings.webhooks, webhooks_port)
        hooks = {each.name: f"{base.rstrip('/')}{each.paths[0]}" for each in settings.sources}
        rows += [(f"Webhooks: {name}", address) for name, address in hooks.items()]
    rows += [("Status page", page)]
    rows += [("" if index else "Delivers to", what) for index, what in enumerate(deliveries)]
    if any(map(is_store, settings.destinations)):
        rows += [("Ask about calls", "callspool calls list")]
    rows += [("Spool", spool)]
    text = f"\ncallspool {version('callspool')} is ready.\n\n"
    text += "".join(f"  {about:<18} {what}\n" for about, what in rows)
    if first and settings.intake.listen.path is None and settings.intake.token is None:
        text += (
            f'\n  Try it:  curl -d \'{{"call_id": "my-first-call"}}\' {intake}/v1/calls\n'
            "           callspool show my-first-call    (or callspool tail, to see calls as they come)\n"
        )
    text += "\n  Ctrl-C stops it; what is not delivered stays in the spool for the next start.\n"
    where: dict[str, object] = {}
    if not announce(text):
        where = {"post_to": f"{intake}/v1/calls", "status_page": page, "spool": spool, "delivers": deliveries}
        where |= {"webhooks": hooks} if hooks else {}
    _log.info("running", **where, intake_port=intake_port, spool_bytes=spool_bytes)


def url_of(listener: ListenerTable, port: int) -> str:
    """A URL that reaches this listener from this machine; of a Unix socket as nginx writes it."""
    scheme, listen = "https" if listener.tls_cert_file else "http", listener.listen
    assert listen is not None, "asked of a listener that there is"
    if listen.path is not None:
        return f"{scheme}://unix:{listen.path}:"
    return f"{scheme}://{ListenAddress(_ANY_INTERFACE.get(listen.host, listen.host), port)}"


def _deliveries(settings: Settings) -> Iterator[str]:
    """Each destination with where it is, and what it gets of call logs."""
    routes = [route_of(destination) for destination in settings.destinations]
    owed = [delivery for stored_as in StoredAs for delivery in plan(routes, stored_as)]
    for destination in settings.destinations:
        if destination.standby:
            yield f"{destination.name}: {destination.target} (what is moved there)"
            continue
        forms = dict.fromkeys(_FORMS[each.form] for each in owed if each.destination == destination.name)
        yield f"{destination.name}: {destination.target} ({', '.join(forms) or 'what another refuses as too large'})"

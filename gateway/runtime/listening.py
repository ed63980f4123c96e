"""The admin listener of a gateway or a worker, and the certificates of all listeners."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import structlog
from aiohttp import web

from config.settings import AdminSettings, Settings, listeners_of
from gateway.intake.server import IntakeServer
from gateway.listeners import Listener
from gateway.runtime.options import listen_options, tls_files
from gateway.runtime.startup import listening_at, url_of
from gateway.tls import CertificateUnusable, ServerTls

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
    following = asyncio.create_task(_follow(tls, listening))
    try:
        yield
    finally:
        following.cancel()


async def _follow(tls: Mapping[str, ServerTls], listening: Callable[[], Mapping[str, Listener | IntakeServer]]) -> None:
    while tls:
        await asyncio.sleep(CERTIFICATE_SECONDS)
        for section, each in tls.items():
            try:
                if not await asyncio.to_thread(each.changed):
                    continue
            except CertificateUnusable as error:
                hint = "the certificate before is presented still"
                _log.error("certificate_unusable", listener=section, reason=str(error), what_happens=hint)
                continue
            listener = listening().get(section)
            if listener is not None:
                await listener.replace_tls(each.context)
            _log.info("certificate_reloaded", listener=section)

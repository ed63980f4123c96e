"""What a start says: where to post, where the page is, what is delivered where; and why a port cannot be used."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator

from config.destinations import Destination, FileDestination, S3Destination
from config.settings import Settings
from config.types import ListenAddress, format_path, mask_address
from gateway.process import port_owner


class CannotListen(Exception):
    """A listener has no address; the message names the setting and, where it is known, who has the port."""


@contextlib.contextmanager
def listening_at(address: ListenAddress, section: str) -> Iterator[None]:
    """Turn what the system says against listening at the address of `section` into `CannotListen`."""
    try:
        yield
    except OSError as error:
        setting = f"{section}.listen (CALLSPOOL_{section.upper()}_LISTEN)"
        if error.errno != errno.EADDRINUSE:
            said = os.strerror(error.errno) if error.errno else str(error)
            raise CannotListen(f"cannot listen at {address}, which {setting} names: {said}") from error
        owner = port_owner(address.port)
        who = f"by {owner}" if owner else "most likely by another callspool (`ss -ltnp` shows whose it is)"
        raise CannotListen(
            f"{address} is already in use {who}: end that process, or set {setting} to another address"
        ) from error


def starting_point(settings: Settings, intake_port: int, status_page: str) -> dict[str, object]:
    """What somebody who starts callspool for the first time wants to know, as fields of a log line."""
    host = settings.intake.listen.host
    return {
        "post_to": f"http://{f'[{host}]' if ':' in host else host}:{intake_port}/v1/calls",
        "status_page": f"{status_page}/",
        "spool": format_path(settings.spool.dir),
        "delivers": list(_deliveries(settings.destinations)),
    }


def _deliveries(destinations: Iterable[Destination]) -> Iterator[str]:
    """Each destination with where it is; secrets in addresses are masked."""
    for destination in destinations:
        match destination:
            case FileDestination():
                where = format_path(destination.path)
            case S3Destination():
                where = f"s3://{destination.bucket}/{destination.prefix}"
            case _:
                where = mask_address(destination.url)
        yield f"{destination.name}: {where}"

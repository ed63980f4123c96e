"""From settings to what deliveries a destination can be given by an operator that were planned for another."""

from config.destinations import (
    Destination,
    DetailSent,
    FileDestination,
    HttpDestination,
    PresignedDestination,
    S3Destination,
)
from config.too_large import REDUCTIONS
from gateway.orders.takes import Takes
from spool.records import Form

_REQUESTS = frozenset({Form.WHOLE, Form.CORE, Form.DETAIL, Form.NOTICE})
_FILES = frozenset({Form.WHOLE, Form.CORE, Form.DETAIL})
"""What a folder and a bucket have names for."""


def takes(destination: Destination) -> Takes:
    """What it takes, and whether in the order of the calls."""
    match destination:
        case HttpDestination():
            return Takes(_REQUESTS | ({Form.REDUCED} if _reduces(destination) else set()), ordered=True)
        case PresignedDestination():
            return Takes(_REQUESTS, ordered=True)
        case S3Destination():
            return Takes(_FILES, ordered=False)
        case FileDestination():
            return Takes(_FILES, ordered=True)


def _reduces(destination: HttpDestination) -> bool:
    """Whether it can make reduced details, always or where full ones are refused."""
    always = destination.detail in {DetailSent.CRITICAL, DetailSent.TOP_N}
    return always or bool(REDUCTIONS.intersection(destination.when_too_large))

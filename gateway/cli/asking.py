"""Turns what an answer of the admin API failed of into a sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from gateway.cli.admin_client import NoGateway, Refused
from gateway.cli.exits import Exit
from gateway.cli.output import complain

_START_HINT = "Start one with `callspool run`, or say where it is with --admin HOST:PORT."

_UNKNOWN = ("unknown_call", "unknown_delivery")


@contextmanager
def explained() -> Iterator[None]:
    """Ends the command with a sentence when the gateway does not answer, or not as it should."""
    try:
        yield
    except NoGateway as error:
        complain(f"{error}.", hint=_START_HINT)
        raise SystemExit(Exit.NO_GATEWAY) from None
    except Refused as error:
        complain(str(error), hint=error.hint)
        raise SystemExit(Exit.UNKNOWN_CALL if error.code in _UNKNOWN else Exit.FAILED) from None
    except msgspec.DecodeError as error:
        complain(f"The answer is not that of this version of callspool: {error}", hint="Compare `callspool version`.")
        raise SystemExit(Exit.NO_GATEWAY) from None

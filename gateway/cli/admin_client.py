"""Asks the admin API of a running gateway. One request, no proxy, a short time-out."""

import http.client
import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import click

from config.addresses import ListenAddress, parse_listen
from config.settings import AdminSettings

_TIMEOUT_SECONDS = 5.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listened at, not asked
"""Where to ask a gateway that listens on every interface."""

Command = TypeVar("Command", bound=Callable[..., Any])


class NoGateway(Exception):
    """Nothing answers at the admin address, or what answers is no gateway."""


class Refused(Exception):
    """The gateway answered with an error; `code` is its own word for it."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class _Address(click.ParamType[ListenAddress]):
    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ListenAddress:
        try:
            return parse_listen(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def admin_option(command: Command) -> Command:
    """Adds --admin to a command."""
    return click.option(
        "--admin",
        "address",
        type=_Address(),
        default=AdminSettings().listen,
        envvar="CALLSPOOL_ADMIN_LISTEN",
        show_envvar=True,
        show_default=True,
        help="Where the gateway's admin listener is.",
    )(command)


def ask(address: ListenAddress, *path: str) -> bytes:
    """The body of the answer to a GET of this path, whose parts may hold any character.

    Raises NoGateway when nothing answers, Refused for an answer that is an error of the gateway.
    """
    connection = http.client.HTTPConnection(
        _ANY_ADDRESS.get(address.host, address.host), address.port, timeout=_TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", "/" + "/".join(quote(part, safe="") for part in path))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoGateway(f"No gateway answers at {address}: {reason}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise _refusal(address, response.status, body)
    return body


def _refusal(address: ListenAddress, status: int, body: bytes) -> NoGateway | Refused:
    try:
        error = json.loads(body)["error"]
        return Refused(str(error["code"]), str(error["message"]), str(error["hint"]))
    except (ValueError, KeyError, TypeError):
        return NoGateway(f"What answers at {address} is no callspool gateway (HTTP {status})")

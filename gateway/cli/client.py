"""Asks the admin API of a running gateway. One request at a time, no proxy, a short time-out."""

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import click
import msgspec
from click.core import ParameterSource

from config.values import (
    ADMIN_LISTEN,
    CREDENTIALS_DIRECTORY,
    INTAKE_LISTEN,
    SPOOL_DIRECTORY,
    ListenAddress,
    parse_asked,
    parse_duration,
    split_tokens,
)
from gateway.cli import Exit, fits_a_header
from gateway.cli.output import complain
from gateway.runbooks import RUNBOOK_OF

if TYPE_CHECKING:
    from ssl import SSLContext

    from config.listeners import ListenerTable
    from config.settings import Settings

TOKEN_FILE = "admin-token"
TOKEN_VARIABLE = "CALLSPOOL_ADMIN_TOKEN"  # the name of one, and no secret
_TIMEOUT_SECONDS = 15.0
"""For the next byte of an answer: a step of an order waits for its commits."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listened at, not asked
"""Where to ask a gateway that listens on every interface."""
BLOCK_BYTES = 1 << 20
_CONFIG = "callspool.config"
"""Under which click's context holds the file of --config."""
_STOPPED = "callspool.stopped"
"""Under which it holds where the spool of a stopped gateway is asked."""

Command = TypeVar("Command", bound=Callable[..., Any])
Query = Mapping[str, str | Sequence[str]]


class NoGateway(Exception):
    """Nothing answers at the admin address, or what answers is no gateway."""


class BrokenOff(NoGateway):
    """The gateway's answer ended in the middle: what came of an order is not known."""


NO_LAST_LINE = "The answer of the gateway ended before its last line; the outcome is unknown"


class Refused(Exception):
    """The gateway answered with an error; `code` is its own word for it, `runbook` where more is said about it."""

    def __init__(self, code: str, message: str, hint: str, runbook: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.runbook = runbook


class AddressType(click.ParamType[ListenAddress]):
    """HOST:PORT, unix:PATH or https://HOST:PORT on the command line."""

    name = "ADDRESS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ListenAddress:
        """The address that was typed; ends the command where it is none."""
        try:
            return parse_asked(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Span(click.ParamType[float]):
    """A span of time as people write it, in seconds."""

    name = "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that were typed; ends the command where they are none."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def admin_option(command: Command) -> Command:
    """Adds --admin and --config to a command."""
    return config_option(admin_address(command))


def admin_address(command: Command) -> Command:
    """Adds --admin alone, to a command that has its own --config."""
    return _address_option(command, "admin", ADMIN_LISTEN, "Address of the gateway's admin listener.")


def intake_option(command: Command) -> Command:
    """Adds --intake and --config to a command."""
    return config_option(_address_option(command, "intake", INTAKE_LISTEN, "Address of the gateway's intake."))


def _address_option(command: Command, section: str, default: ListenAddress, about: str) -> Command:
    return click.option(
        f"--{section}",
        "address",
        type=AddressType(),
        default=lambda: _configured_address(section) or default,
        envvar=f"CALLSPOOL_{section.upper()}_LISTEN",
        show_envvar=True,
        show_default=f"as configured, or {default}",
        help=about,
    )(command)


def config_option(command: Command) -> Command:
    """Adds --config, for where the gateway listens and where its spool is."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=remember_config,
        help="The gateway's TOML file.  [env var: CALLSPOOL_CONFIG]",
    )(command)


def remember_config(context: click.Context, _parameter: click.Parameter, file: Path | None) -> Path | None:
    """Keep the file that --config names, for whatever asks for a setting."""
    context.meta[_CONFIG] = file
    return file


def _config_file() -> Path | None:
    """The file of --config, or of CALLSPOOL_CONFIG; None where neither is given."""
    context = click.get_current_context(silent=True)
    named = None if context is None else context.meta.get(_CONFIG)
    given = named or os.environ.get("CALLSPOOL_CONFIG")
    return Path(given) if given else None


def _configured_address(section: str) -> ListenAddress | None:
    """Where the configuration says that a section listens; None where no file is named, or it cannot be used."""
    settings = settings_of_gateway()
    if settings is None:
        return None
    listener: ListenerTable = getattr(settings, section)
    return listener.listen


def asked_at(address: ListenAddress) -> ListenAddress:
    """Where to reach what listens at an address."""
    return replace(address, host=_ANY_ADDRESS.get(address.host, address.host))


def connect(address: ListenAddress, section: str, timeout: float) -> http.client.HTTPConnection:
    """A connection to the listener of a section, such as `admin`, over a Unix socket or TLS where that is so.

    TLS is spoken where the address says `https://`, or the settings at hand name the listener's certificate.
    """
    asked = asked_at(address)
    if asked.path is not None:
        return UnixConnection(asked.path, timeout)
    context = tls_context(address, section)
    if context is None:
        return http.client.HTTPConnection(asked.host, asked.port, timeout=timeout)
    return http.client.HTTPSConnection(asked.host, asked.port, timeout=timeout, context=context)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """See `HTTPConnection`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def tls_context(address: ListenAddress, section: str) -> "SSLContext | None":
    """The TLS to ask a listener with; None where it has none. Ends the command where a file of it cannot be used.

    The gateway's own certificate, where this user can read it, is trusted whatever names stand in it: 127.0.0.1 is
    in few certificates.
    """
    own = _file_setting(section, "tls_cert_file")
    if address.path is not None or not (address.secure or own):
        return None
    from gateway.tls import client_context  # noqa: PLC0415  # ssl alone takes 20 ms

    authorities, certificate = _file_setting("cli", "ca_file"), _file_setting("cli", "cert_file")
    pinned = authorities is None and own is not None and os.access(own, os.R_OK)
    try:
        context = client_context(own if pinned else authorities, whatever_name=pinned)
        if certificate is not None:
            context.load_cert_chain(certificate, _file_setting("cli", "key_file"))
    except OSError as error:
        file = error.filename or certificate or authorities or own
        complain(f"The certificates in {file} cannot be used: {error.strerror or error}.")
        raise SystemExit(Exit.USAGE) from None
    return context


def _file_setting(section: str, name: str) -> Path | None:
    """The path that a setting names: its variable, or else the configuration file."""
    given = os.environ.get(f"CALLSPOOL_{section}_{name}".upper())
    if given:
        return Path(given) if given.lower() not in {"none", "off"} else None
    settings = settings_of_gateway()
    value = getattr(getattr(settings, section), name) if settings else None
    return value if isinstance(value, Path) else None


def ask(address: ListenAddress, *path: str, query: Query | None = None) -> bytes:
    """The body of the answer to a GET of this path, whose parts may hold any character.

    Raises NoGateway when nothing answers, Refused for an answer that is an error of the gateway.
    """
    return b"".join(download(address, *path, query=query))


def tell(address: ListenAddress, document: bytes, *path: str) -> bytes:
    """The body of the answer to a POST of this JSON document; raises like `ask`."""
    headers = {"Content-Type": "application/json"}
    with _answer(address, "POST", path, headers=headers, body=document) as response:
        return response.read()


def converse(address: ListenAddress, document: bytes, *path: str) -> Iterator[bytes]:
    """The lines of the answer to a POST of this JSON document, as they come; raises like `ask`."""
    headers = {"Content-Type": "application/json"}
    with _answer(address, "POST", path, headers=headers, body=document) as response:
        line = bytearray()
        while block := response.read1():  # unlike `readline`, it raises where the connection is cut
            *ends, begun = block.split(b"\n")
            for end in ends:
                yield bytes(line + end)
                line.clear()
            line += begun
        if line:
            yield bytes(line)


def download(
    address: ListenAddress, *path: str, query: Query | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """The body of the answer to a GET, a block at a time; raises like `ask`."""
    with _answer(address, "GET", path, query=query, headers=headers) as response:
        while block := response.read(BLOCK_BYTES):
            yield block
        if response.length:  # as above
            raise http.client.IncompleteRead(b"", response.length)


def send(address: ListenAddress, content_type: str, blocks: Iterable[bytes], size: int, *path: str) -> bytes:
    """The body of the answer to a POST of these blocks, `size` bytes together; raises like `ask`."""
    headers = {"Content-Type": content_type, "Content-Length": str(size)}
    with _answer(address, "POST", path, headers=headers, body=blocks) as response:
        return response.read()


@contextmanager
def _answer(
    address: ListenAddress,
    method: str,
    path: Sequence[str],
    *,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """An answer that is no error; raises NoGateway where none begins, and BrokenOff where one does not end.

    Where an order was sent and no answer begins, that is BrokenOff, too: the gateway may have carried it out.

    Where no gateway runs, and the command may do without one, its spool answers.
    """
    sent = begun = False
    address = _stopped_gateway() or address
    connection = connect(address, "admin", _TIMEOUT_SECONDS)
    target = "/" + "/".join(quote(part, safe="") for part in path)
    if query:
        target = f"{target}?{urlencode(query, doseq=True)}"
    try:
        try:
            connection.connect()
        except (ConnectionRefusedError, FileNotFoundError):
            stopped = _open_stopped_spool(path)
            if stopped is None:
                raise
            address, connection = stopped, connect(stopped, "admin", _TIMEOUT_SECONDS)
        if method != "GET" and isinstance(connection, http.client.HTTPSConnection):
            # With TLS 1.3 the first answer shows whether the gateway accepts this client's certificate.
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        sent = method != "GET"
        connection.request(method, target, body=body, headers={**_credentials(address), **(headers or {})})
        response = connection.getresponse()
        if response.status != 200:
            raise _refusal(address, response.status, response.read())
        begun = True
        yield response
    except (OSError, http.client.HTTPException) as error:
        outcome = "" if method == "GET" else "; the outcome is unknown"
        if begun:
            raise BrokenOff(f"The answer of the gateway at {address} ended in the middle{outcome}") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if sent and isinstance(error, OSError):
            raise BrokenOff(f"The gateway at {address} did not answer: {reason}{outcome}") from error
        raise NoGateway(f"No gateway answers at {address}: {reason}") from error
    finally:
        connection.close()


_NEEDS_GATEWAY = ("healthz", "reload", "resume", "salvage", "rekey")
"""The last part of requests that only a gateway that runs can answer, or that have a way of their own without one."""


def _stopped_gateway() -> ListenAddress | None:
    """Where the spool of a stopped gateway is asked, once it is open."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_STOPPED)


def asks_stopped_spool() -> bool:
    """Whether the command itself has the spool open: then it looks once, for no gateway could start meanwhile."""
    return _stopped_gateway() is not None


def _open_stopped_spool(path: Sequence[str]) -> ListenAddress | None:
    """Open the configured spool for the rest of the command, where no gateway owns it, and say so.

    None where a gateway was asked for by its address or elsewhere, where only a gateway can answer, or where there is
    no such spool.
    """
    context = click.get_current_context(silent=True)
    if context is None or path[-1] in _NEEDS_GATEWAY or not asked_of_this_machine(context):
        return None
    try:
        (_spool_directory() / "spool.db").stat()
    except OSError:  # or it is not this user's to look into
        return None
    from gateway.cli.stopped import CannotOpen, StoppedGateway, settings_of, spool_to_open  # noqa: PLC0415  # half a second

    try:
        settings = settings_of(_config_file(), os.environ)
        if settings is None or spool_to_open(settings) is None:
            return None
        gateway = StoppedGateway(settings)
        gateway.start()
    except CannotOpen as error:
        text = str(error)
        raise NoGateway(f"{text[0].upper()}{text[1:]}") from None
    complain(f"No gateway runs: this is its spool in {settings.spool.dir}.", style="dim")
    context.find_root().call_on_close(gateway.close)
    address = ListenAddress("", 0, gateway.socket)
    context.meta[_STOPPED] = address
    return address


def asked_of_this_machine(context: click.Context) -> bool:
    """Whether the gateway is the configured one, here: its own environment says where it listens, as its file does."""
    source, address = context.get_parameter_source("address"), context.params.get("address")
    if source is ParameterSource.ENVIRONMENT and isinstance(address, ListenAddress):
        return address.path is not None or asked_at(address).loopback
    return source is ParameterSource.DEFAULT


def _credentials(address: ListenAddress) -> dict[str, str]:
    """The admin token: from the environment, since every process sees a command line, or from this machine's spool."""
    if address == _stopped_gateway():  # at a socket of this user alone
        return {}
    token = _configured_token() or (local_token() if asked_at(address).loopback else None)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _configured_token() -> str | None:
    """The first token of the variable, or of the file, command or credential in its place; ends the command for none.

    Several are there while clients change from one to the next: the gateway accepts each of them.
    """
    text = os.environ.get(TOKEN_VARIABLE)
    if not text and any(name.startswith(f"{TOKEN_VARIABLE}_") or name == CREDENTIALS_DIRECTORY for name in os.environ):
        from config.secret_sources import SecretSources  # noqa: PLC0415  # subprocess alone takes 10 ms

        sources = SecretSources()
        text = sources.variables(os.environ, [TOKEN_VARIABLE]).get(TOKEN_VARIABLE)
        for problem in sources.problems:
            complain(f"The admin token cannot be read: {problem}.")
            raise SystemExit(Exit.USAGE)
    return _sendable(next(iter(split_tokens(text or "")), None), "admin listener")


def _sendable(token: str | None, where: str) -> str | None:
    """The token; ends the command where no header can carry it."""
    if token is None or fits_a_header(token):
        return token
    complain(f"The token of the {where} cannot be sent: a token has visible ASCII characters only.")
    raise SystemExit(Exit.USAGE)


def local_token() -> str | None:
    """The random token in the configured spool's directory; None where there is none that this user may read."""
    try:
        return (_spool_directory() / TOKEN_FILE).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeError):
        return None


def _spool_directory() -> Path:
    """The directory of the configured spool. Settings are loaded only where a file may name it: that takes a while."""
    settings = settings_of_gateway()
    return settings.spool.dir if settings else Path(os.environ.get("CALLSPOOL_SPOOL_DIR") or SPOOL_DIRECTORY)


def intake_token() -> str | None:
    """The token of the intake: from the environment, or from the configuration file."""
    token = os.environ.get("CALLSPOOL_INTAKE_TOKEN") or None
    settings = None if token else settings_of_gateway(read_secrets=True)
    if settings is None or settings.intake.token is None:
        return _sendable(token, "intake")
    return settings.intake.token.get_secret_value()


def settings_of_gateway(*, read_secrets: bool = False) -> "Settings | None":
    """The settings of the configuration file and the environment.

    None where no file is named, so that the variables say all there is, or where something is wrong with them: that may
    be no concern of a gateway that runs already.
    """
    file = _config_file()
    if file is None and not os.environ.get("CALLSPOOL_DEFAULTS"):
        return None
    return _loaded(file, read_secrets=read_secrets)


@cache
def _loaded(file: Path | None, *, read_secrets: bool) -> "Settings | None":
    from config.layers import InvalidConfiguration  # noqa: PLC0415  # see `_spool_directory`
    from config.loader import load  # noqa: PLC0415  # see `_spool_directory`

    try:
        return load(file, os.environ, local=True, read_secrets=read_secrets).settings
    except InvalidConfiguration as error:
        hint = "`callspool check-config` names everything that is wrong."
        complain(f"The configuration is invalid, and is not used: {error.problems[0]}.", hint=hint, style="yellow")
        return None


def _refusal(address: ListenAddress, status: int, body: bytes) -> NoGateway | Refused:
    """An error of the gateway as it words it; of something else, that it is something else."""
    try:
        error = json.loads(body)["error"]
        return Refused(str(error["code"]), str(error["message"]), str(error["hint"]), error.get("runbook"))
    except (ValueError, KeyError, TypeError):
        return NoGateway(f"The server at {address} is not a callspool gateway (HTTP {status})")


# Turns what an answer of the admin API failed of into a sentence and an exit code.

_START_HINT = (
    "Start one with `callspool run`, or name its address with --admin (HOST:PORT, unix:PATH or https://HOST:PORT)."
)

_AGAIN_HINT = "Look with `callspool status` whether it runs, and repeat the command: nothing is done twice."

_UNKNOWN = ("unknown_call", "unknown_delivery")


@contextmanager
def explained() -> Iterator[None]:
    """Ends the command with a sentence when the gateway does not answer, or not as it should."""
    try:
        yield
    except BrokenOff as error:
        complain(f"{error}.", hint=_AGAIN_HINT)
        raise SystemExit(Exit.FAILED) from None
    except NoGateway as error:
        complain(f"{error}.", hint=_START_HINT, runbook=RUNBOOK_OF["no_gateway"])
        raise SystemExit(Exit.NO_GATEWAY) from None
    except Refused as error:
        complain(str(error), hint=error.hint, runbook=error.runbook)
        raise SystemExit(Exit.UNKNOWN_CALL if error.code in _UNKNOWN else Exit.FAILED) from None
    except UnicodeEncodeError:
        complain("The command line has characters that are not UTF-8.")
        raise SystemExit(Exit.USAGE) from None
    except msgspec.DecodeError as error:
        complain(
            f"The gateway runs another version of callspool: {error}",
            hint="Compare `callspool version` there and here.",
        )
        raise SystemExit(Exit.NO_GATEWAY) from None

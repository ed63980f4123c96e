"""`callspool post FILE`: post a call log to a running gateway, as an agent does, and show the acknowledgement."""

import http.client
import io
import sys
import time
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from config.values import ListenAddress
from gateway.cli import Exit, KeyFile
from gateway.cli.client import connect, intake_option, intake_token
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json
from gateway.formatting import bytes_text
from gateway.runbooks import RUNBOOK_OF

_TIMEOUT_SECONDS = 60.0
_ENCODINGS = {".gz": "gzip", ".zst": "zstd"}
_HINT = "Start one with `callspool run`, or name its address with --intake HOST:PORT."


class _Error(msgspec.Struct):
    """Why a post was rejected."""

    message: str = ""
    hint: str = ""


class _Answer(msgspec.Struct):
    """An answer of the intake, as far as it is shown."""

    call_id: str | int = ""
    record_id: str = ""
    duplicate: bool = False
    upload_method: str = "single"
    error: _Error | None = None


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--key", type=KeyFile(), metavar="FILE", help="File with the agent's key (- for stdin).")
@json_option
@intake_option
def post(files: tuple[Path, ...], address: ListenAddress, *, key: str | None) -> None:
    """Post call logs (JSON, - for stdin) to a running gateway, and show each acknowledgement.

    Files that end in .gz or .zst are sent as they are, with their encoding. The token of the intake, if it has
    one, is that of CALLSPOOL_INTAKE_TOKEN or of the configuration.
    """
    accepted = [_post(file, address, key) for file in files]
    if not all(accepted):
        raise SystemExit(Exit.FAILED)


def _post(file: Path, address: ListenAddress, key: str | None) -> bool:
    """Post one file; whether it was accepted. Ends the command where nothing answers."""
    try:
        body, size = _opened(file)
    except OSError as error:
        complain(f"{file} cannot be read: {error.strerror or error}.")
        return False
    began, connection = time.monotonic(), connect(address, "intake", _TIMEOUT_SECONDS)
    try:
        connection.request("POST", "/v1/calls", body=body, headers=_headers(file, size, key))
        response = connection.getresponse()
        status, answer = response.status, msgspec.json.decode(response.read(), type=_Answer)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        complain(f"No gateway answers at {address}: {reason}.", hint=_HINT, runbook=RUNBOOK_OF["no_gateway"])
        raise SystemExit(Exit.NO_GATEWAY) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        complain(f"The server at {address} is not a callspool gateway (HTTP {response.status}).", hint=_HINT)
        raise SystemExit(Exit.NO_GATEWAY) from None
    finally:
        connection.close()
        body.close()
    if answer.error is not None or status >= 300:
        error_of = answer.error or _Error()
        complain(f"{file} was rejected (HTTP {status}): {error_of.message}", hint=error_of.hint)
        return False
    _show(file, answer, size, time.monotonic() - began)
    return True


def _show(file: Path, answer: _Answer, size: int, seconds: float) -> None:
    if as_json():
        print_json({
            "file": str(file), "call_id": answer.call_id, "record_id": answer.record_id,
            "upload_method": answer.upload_method, "duplicate": answer.duplicate, "bytes": size, "seconds": seconds,
        })  # fmt: skip
        return
    what = "already known" if answer.duplicate else "durable"
    split = ", core and detail" if answer.upload_method == "two_phase" else ""
    line = plain(f"{file}: call {answer.call_id} ", "bold").append(what, "bold green")
    output().print(
        line.append(f" as {answer.record_id}{split}; {bytes_text(size)} in {1000 * seconds:.0f} ms", "not bold")
    )
    if not answer.duplicate:
        output().print(plain(f"  callspool show {answer.call_id}", "dim"))


def _opened(file: Path) -> tuple[BinaryIO, int]:
    """The body and its size; standard input, and a pipe such as `<(command)`, are read to their end first."""
    if str(file) != "-" and file.is_file():
        return file.open("rb"), file.stat().st_size
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    return io.BytesIO(data), len(data)


def _headers(file: Path, size: int, key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Content-Length": str(size)}
    if encoding := _ENCODINGS.get(file.suffix):
        headers["Content-Encoding"] = encoding
    if token := intake_token():
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["x-pype-token"] = key
    return headers

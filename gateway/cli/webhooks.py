"""`callspool webhooks`: try a source without its provider, and find out why a signature fails."""

import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from config.settings import Settings
from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import AddressType, connect
from gateway.cli.options import config_option, loaded_or_exit
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, result, table
from gateway.formatting import bytes_text
from gateway.runtime.destinations import DriverMissing
from gateway.runtime.sources import sources_of
from gateway.webhooks.document import call_log_of, decode
from gateway.webhooks.providers import Provider
from gateway.webhooks.signatures import HmacScheme, Verdict, Webhook, check_headers, verify
from gateway.webhooks.source import Source, refusal

_TIMEOUT_SECONDS = 30.0
_SHOWN = 60
"""Characters of a value that are shown."""


@click.group()
def webhooks() -> None:
    """Test webhook sources, and find out why a signature fails."""


@webhooks.command("test", short_help="Sign and post a sample, as the provider does.")
@click.argument("source")
@click.option("--sample", "kind", metavar="EVENT", help="Type of event to send.  [default: the end of a call]")
@click.option("--to", "address", type=AddressType(), help="Listener to post to.  [default: webhooks.listen]")
@click.option("--dry-run", is_flag=True, help="Show what the sample would become; send nothing.")
@json_option
@config_option
def test(source: str, kind: str | None, address: ListenAddress | None, file: Path | None, *, dry_run: bool) -> None:
    """Sign a sample as the provider of SOURCE does, post it to the running gateway, and show the result."""
    settings, found = _source(source, file)
    provider = found.provider
    kind = kind or provider.sample
    if kind not in provider.samples:
        complain(f"There is no sample of {kind}.", hint=f"Known are: {', '.join(provider.samples)}.")
        raise SystemExit(Exit.USAGE)
    body = _body(provider, provider.samples[kind])
    _show(found, body)
    if dry_run:
        return
    secrets = found.secrets
    if not secrets:
        complain(f"The source {source} has no secret.", hint=f"Set {provider.secret} as its secret.")
        raise SystemExit(Exit.FAILED)
    if provider.name == "telnyx":
        complain("Telnyx signs with its own private key, which callspool does not have.", hint="Use --dry-run.")
        raise SystemExit(Exit.FAILED)
    path = found.paths[0]
    headers = provider.scheme.sign(secrets[0], body, time.time(), found.public_url + path)
    if not _post(address or settings.webhooks.listen, path, body, headers, is_form=provider.is_form):
        raise SystemExit(Exit.FAILED)


@webhooks.command("verify", short_help="Check whether a webhook is genuine.")
@click.argument("body", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--source", required=True, help="The source it was sent to.")
@click.option("--header", "given", multiple=True, metavar="'NAME: VALUE'", help="A header of the request; repeatable.")
@click.option(
    "--url", default="", help="The URL it was sent to, for Twilio.  [default: webhooks.public_url and the path]"
)
@json_option
@config_option
def verify_body(body: Path, source: str, given: tuple[str, ...], url: str, file: Path | None) -> None:
    """Check whether BODY, a file with the bytes of a webhook, is genuine, and if not, why.

    It says whether the clock or the secret is wrong, or the body was parsed and serialized again on its way.
    """
    _, found = _source(source, file)
    headers = _headers(given)
    data = body.read_bytes()
    scheme, secrets = found.provider.scheme, found.secrets
    if not secrets:
        complain(f"The source {source} has no secret.", hint=f"Set {found.provider.secret} as its secret.")
        raise SystemExit(Exit.FAILED)
    webhook = Webhook(headers, data, url or found.public_url + found.paths[0])
    now = time.time()
    early = check_headers(scheme, headers, now, found.tolerance)
    forever = float("inf")
    verification = verify(scheme, secrets, webhook, now, forever)
    if verification.verdict is Verdict.GENUINE:
        when = "" if verification.skew is None else f" Its time is {abs(verification.skew):.0f} s "
        when += "" if verification.skew is None else ("ago." if verification.skew >= 0 else "ahead.")
        result({"genuine": True, "skew_seconds": verification.skew}, f"The signature is genuine.{when}", "bold green")
        if early is not None:
            rejection = refusal(found.provider, early, found.tolerance)
            complain(f"It is refused nevertheless: {rejection.message}", hint=rejection.hint)
            raise SystemExit(Exit.FAILED)
        return
    rejection = refusal(found.provider, verification, found.tolerance)
    complain(rejection.message, hint=_reason(found, webhook, now) or rejection.hint)
    raise SystemExit(Exit.FAILED)


def _reason(source: Source, webhook: Webhook, now: float) -> str | None:
    """What would verify instead: the same meaning in other bytes."""
    scheme, secrets = source.provider.scheme, source.secrets
    if not isinstance(scheme, HmacScheme):
        return None
    for what, changed in _other_forms(bytes(webhook.body)):
        if verify(scheme, secrets, Webhook(webhook.headers, changed, webhook.url), now, float("inf")).verdict is (
            Verdict.GENUINE
        ):
            return f"The signature is of {what}: something changed the body on its way. Pass its bytes on unchanged."
    return None


def _other_forms(body: bytes) -> list[tuple[str, bytes]]:
    """The body as common tools change it."""
    forms = [
        ("the body without the line break at its end", body.rstrip(b"\r\n")),
        ("the body and a line break", body + b"\n"),
    ]
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return forms
    compact = (",", ":")
    forms += [
        ("the same JSON without blanks", json.dumps(value, ensure_ascii=False, separators=compact).encode()),
        ("the same JSON without blanks, in ASCII", json.dumps(value, separators=compact).encode()),
        ("the same JSON with blanks", json.dumps(value, ensure_ascii=False).encode()),
        ("the same JSON with blanks, in ASCII", json.dumps(value).encode()),
        ("the same JSON, indented", json.dumps(value, indent=2, ensure_ascii=False).encode()),
    ]
    return forms


def _source(name: str, file: Path | None) -> tuple[Settings, Source]:
    settings = loaded_or_exit(file, local=True).settings
    try:
        sources = {source.name: source for source in sources_of(settings)}
    except DriverMissing as error:
        complain(str(error))
        raise SystemExit(Exit.FAILED) from None
    if name not in sources:
        hint = f"Known are: {', '.join(sources)}." if sources else "None is configured: see docs/webhooks.md."
        complain(f"There is no source {name}.", hint=hint)
        raise SystemExit(Exit.USAGE)
    return settings, sources[name]


def _body(provider: Provider, sample: object) -> bytes:
    if provider.is_form and isinstance(sample, Mapping):
        return urlencode(dict(sample)).encode()
    return json.dumps(sample).encode()


def _show(source: Source, body: bytes) -> None:
    """What becomes of a body: each member of the call log."""
    value, is_json = decode(body, is_form=source.provider.is_form)
    event = source.provider.adapt(value)
    call_log = json.loads(
        b"".join(map(bytes, call_log_of(source.name, source.provider.name, event, body, is_json=is_json)))
    )
    if as_json():
        print_json({"event": event.type, "bytes": len(body), "call_log": call_log})
        return
    shown = table("Member", "Value")
    for name, member in call_log.items():
        text = member if isinstance(member, str) else json.dumps(member, ensure_ascii=False)
        shown.add_row(plain(name), plain(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"))
    output().print(plain(f"{event.type} ({bytes_text(len(body))}) becomes:", "bold"))
    output().print(shown)


def _post(address: ListenAddress | None, path: str, body: bytes, headers: dict[str, str], *, is_form: bool) -> bool:
    assert address is not None, "sources need a listener"
    connection = connect(address, "webhooks", _TIMEOUT_SECONDS)
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    began = time.monotonic()
    try:
        connection.request("POST", path, body=body, headers={"Content-Type": kind, **headers})
        response = connection.getresponse()
        status, text = response.status, response.read()
    except (OSError, http.client.HTTPException) as failure:
        reason = getattr(failure, "strerror", None) or failure
        complain(f"No gateway answers at {address}: {reason}.", hint="Start one with `callspool run`.")
        raise SystemExit(Exit.NO_GATEWAY) from None
    finally:
        connection.close()
    try:
        answer = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        complain(f"The server at {address} is not a callspool gateway (HTTP {status}).")
        raise SystemExit(Exit.NO_GATEWAY) from None
    if status != 200:
        error = answer.get("error")
        said = error if isinstance(error, dict) else {}
        complain(f"{path} answered {status}: {said.get('message', '')}", hint=said.get("hint", ""))
        return False
    if as_json():
        print_json({"path": path, **answer})
        return True
    what = "already known" if answer.get("duplicate") else "durable"
    took = 1000 * (time.monotonic() - began)
    output().print(
        plain(f"{path} answered 200 in {took:.0f} ms: {what} as {answer.get('record_id', '-')}", "bold green")
    )
    output().print(plain(f"  callspool show {answer.get('call_id')}", "dim"))
    return True


def _headers(given: tuple[str, ...]) -> Mapping[str, str]:
    from multidict import CIMultiDict  # noqa: PLC0415  # for this command alone

    headers: CIMultiDict[str] = CIMultiDict()
    for line in given:
        name, separator, value = line.partition(":")
        if not separator:
            complain(f"{line!r} is not a header.", hint="Write it as 'NAME: VALUE'.")
            raise SystemExit(Exit.USAGE)
        headers.add(name.strip(), value.strip())
    return headers

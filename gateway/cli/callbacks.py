"""`callspool callbacks list`, `cancel`, `run`, `block` and `unblock`: who is to be called back, by the admin API."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.calls import tenant_option
from gateway.cli.client import admin_option, ask, explained, tell
from gateway.cli.output import json_option, output, plain, result, table
from gateway.operations.pipeline import CallbackDone, CallbackList, NumberDone
from uploaders.stores.pipeline import CallbackState

_encode = msgspec.json.Encoder().encode
_decode_list = msgspec.json.Decoder(CallbackList).decode
_decode_done = msgspec.json.Decoder(CallbackDone).decode
_decode_number = msgspec.json.Decoder(NumberDone).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@click.group(short_help="List and cancel callbacks; keep the do-not-call list.")
def callbacks() -> None:
    """List, cancel and hasten callbacks, and say whom nobody may call."""


@callbacks.command("list", short_help="List callbacks.")
@admin_option
@tenant_option
@click.option("--state", type=click.Choice([state.value for state in CallbackState]), help="In this state.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
def list_(address: ListenAddress, *, tenant: str | None, state: str | None, as_json: bool) -> None:
    """List callbacks, the next ones first."""
    query = {name: value for name, value in {"project": tenant, "state": state}.items() if value is not None}
    with explained():
        body = ask(address, "api", "callbacks", query=query)
        if as_json:
            click.echo(bytes(_decode_members(body)["callbacks"]).decode())
            return
        found = _decode_list(body).callbacks
        shown = table("Call", "Due", "Zone", "Number", "Words", "State", "Because")
        for each in found:
            columns = (each.call_id, each.due_at, each.zone, each.number, each.words, each.state, each.reason or "-")
            shown.add_row(*map(plain, columns))
        output().print(shown if found else plain("No callback.", "dim"))


@callbacks.command(short_help="Call somebody back no more.")
@click.argument("call_id")
@json_option
@admin_option
@tenant_option
def cancel(call_id: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Cancel the callback of a call, as long as it waits."""
    with explained():
        body = tell(address, _encode({"call_id": call_id, "project": tenant or ""}), "api", "callbacks", "cancel")
        result(_decode_done(body), f"The callback of call {call_id} is cancelled.", "")


@callbacks.command(short_help="Call somebody back now.")
@click.argument("call_id")
@json_option
@admin_option
@tenant_option
def run(call_id: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Make the callback of a call due now; hours, limits and the do-not-call list count all the same."""
    with explained():
        body = tell(address, _encode({"call_id": call_id, "project": tenant or ""}), "api", "callbacks", "run")
        result(_decode_done(body), f"The callback of call {call_id} is due now.", "")


@callbacks.command(short_help="Put a number on the do-not-call list.")
@click.argument("number")
@json_option
@admin_option
@tenant_option
def block(number: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Never call this number back; without --tenant, for no tenant."""
    _set_blocked(address, number, tenant, blocked=True)


@callbacks.command(short_help="Take a number off the do-not-call list.")
@click.argument("number")
@json_option
@admin_option
@tenant_option
def unblock(number: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Allow to call this number back again."""
    _set_blocked(address, number, tenant, blocked=False)


def _set_blocked(address: ListenAddress, number: str, tenant: str | None, *, blocked: bool) -> None:
    order = {"number": number, "project": tenant or "", "blocked": blocked}
    with explained():
        body = tell(address, _encode(order), "api", "do-not-call")
        result(_decode_number(body), f"{number} is {'on' if blocked else 'off'} the do-not-call list.", "")

"""`callspool tenants list`, `unassigned` and `assign`: whose call logs there are, asked through the admin API."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import admin_option, ask, explained, tell
from gateway.cli.output import Responsive, json_option, output, plain, result, table, with_lines
from gateway.formatting import age_text, bytes_text, count_text, counted
from gateway.operations.tenants import Assigned, TenantList

_decode_list = msgspec.json.Decoder(TenantList).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_COLUMNS = ("Tenant", "Agents", "Assigned", "Destinations of its own", "Weight", "Stored", "Receipts", "Expires")
_LISTS = ("agents", "assigned", "destinations")
_list_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")


@click.group(short_help="List tenants; assign agents to them.")
def tenants() -> None:
    """List tenants and agents without one; assign agents to tenants."""


@tenants.command("list", short_help="List the tenants.")
@admin_option
@_list_option
def list_(address: ListenAddress, *, as_json: bool) -> None:
    """List the tenants of the configuration, with the agents that were assigned to them since, what their call logs
    use of the spool, and how long receipts and what cannot be delivered are kept."""
    with explained():
        body = ask(address, "api", "tenants")
        if as_json:
            click.echo(bytes(_decode_members(body)["tenants"]).decode())
            return
        wide, narrow = table(*_COLUMNS, numbers=_COLUMNS[4:]), table("Tenant", *_COLUMNS[4:], numbers=_COLUMNS[4:])
        for each in _decode_list(body).tenants:
            lists = [", ".join(names) for names in (each.agents, each.assigned, each.destinations)]
            share = "all" if each.share_bytes is None else bytes_text(each.share_bytes)
            expires = "never" if each.expire_after_seconds is None else age_text(each.expire_after_seconds)
            stored = f"{bytes_text(each.stored_bytes)} of {share}"
            figures = [plain(one) for one in (each.weight, stored, age_text(each.receipts_keep_seconds), expires)]
            wide.add_row(plain(each.name), *[plain(names or "-") for names in lists], *figures)
            lines = (f"{word}: {names}" for word, names in zip(_LISTS, lists, strict=True) if names)
            narrow.add_row(with_lines(each.name, lines), *figures)
        output().print(Responsive(wide, narrow))


@tenants.command(short_help="List agents that belong to no tenant.")
@admin_option
@_list_option
def unassigned(address: ListenAddress, *, as_json: bool) -> None:
    """List the agents that belong to no tenant yet, those with the most call logs first."""
    with explained():
        body = ask(address, "api", "tenants")
        if as_json:
            click.echo(bytes(_decode_members(body)["unassigned"]).decode())
            return
        found = _decode_list(body).unassigned
        shown = table("Agent", "Call logs", "Since", numbers=("Call logs",))
        for each in found:
            shown.add_row(
                plain("-" if each.agent_id is None else each.agent_id),
                plain(count_text(each.records)),
                plain(each.since),
            )
        output().print(shown if found else plain("Every call log belongs to a tenant.", "dim"))


@tenants.command(short_help="Assign an agent to a tenant.")
@click.argument("agent_id", required=False)
@click.argument("tenant")
@json_option
@admin_option
def assign(agent_id: str | None, tenant: str, address: ListenAddress) -> None:
    """Give an agent to a tenant, with its call logs that wait; without AGENT_ID, what came without an agent.

    Later call logs of the agent belong to the tenant, too, also after a restart.
    """
    order = msgspec.json.encode({"agent": agent_id, "tenant": tenant})
    with explained():
        done = msgspec.json.decode(tell(address, order, "api", "tenants", "assign"), type=Assigned)
        whose = "A call log without an agent" if agent_id is None else f"Agent {agent_id}"
        moved = counted(done.records, "call log that was waiting does", "call logs that were waiting do")
        result(done, f"{whose} belongs to {tenant}; {moved}, too.", "")

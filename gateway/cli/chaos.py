"""`callspool chaos`: kill, cut off and fill a second gateway with the operator's settings, and see what is lost."""

import asyncio
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.text import Text

from config.destinations import HttpDestination, PresignedSettings, RetrySettings, TokenMode
from config.settings import AuditSettings, Settings, TracesSettings, WhispeySettings
from config.sources import WebhookSettings
from config.values import KIB, MIB, ListenAddress
from gateway.cli import Exit, FiniteRange
from gateway.cli.options import configuration_options, folder_beside, loaded_or_exit
from gateway.cli.output import complain, output, plain, table
from gateway.formatting import count_text
from uploaders.document.options import Large

if TYPE_CHECKING:
    from gateway.chaos.harness import Outcome, Plan
    from gateway.chaos.oracle import Notes


_IN_PLAIN = {"tls_cert_file": None, "tls_key_file": None, "tls_client_ca_file": None}
"""The test itself posts and asks, on this machine."""
LONGEST_RETRY_SECONDS = 2.0
"""The operator's own patience would make a check last for hours."""
SPOOL_BYTES = 48 * MIB
"""So small that it can be filled within seconds."""
NAMED = 10


@click.command()
@configuration_options
@click.option(
    "--seconds",
    type=FiniteRange(1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of each of the two phases with kills.",
)
@click.option(
    "--kills", type=click.IntRange(0, 100), default=5, show_default=True, metavar="COUNT", help="Kills in each phase."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="NUMBER", help="Seed of the random moments.")
@click.option("--keep", is_flag=True, help="Keep the spool and the log of the gateway under test.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def chaos(file: Path | None, *, local: bool, seconds: float, kills: int, seed: int, keep: bool, as_json: bool) -> None:
    """Test these settings by fault injection, and report what was lost.

    A second gateway is killed at random, cut off from its endpoint, and filled up. It delivers to an endpoint of the
    test: your destinations, spool, outboxes, tenants and audit log are not touched, and no webhook is taken. Everything
    happens in a new directory beside the spool, and on 127.0.0.1.
    """
    # The other commands start without loading the gateway.
    from gateway.chaos.harness import GatewayFailed, Plan  # noqa: PLC0415  # see above
    from gateway.chaos.oracle import Notes  # noqa: PLC0415  # see above

    settings = loaded_or_exit(file, local=local).settings
    folder, notes = folder_beside(settings.spool.dir, "callspool-chaos-"), Notes()
    try:
        outcome = asyncio.run(_check(settings, folder, Plan(seconds, kills, seed), notes))
    except GatewayFailed as error:
        complain(f"{error}.", hint="Its spool and log were kept.")
        raise SystemExit(Exit.FAILED) from None
    except KeyboardInterrupt:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if keep or not outcome.passed:
        complain(f"Spool and log of the gateway under test: {folder}", style="dim")
    else:
        shutil.rmtree(folder)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    else:
        output().print(describe(outcome, notes))
    if not outcome.passed:
        raise SystemExit(Exit.FAILED)


async def _check(settings: Settings, folder: Path, plan: "Plan", notes: "Notes") -> "Outcome":
    from gateway.chaos.harness import GatewayUnderTest, free_address, run_scenario  # noqa: PLC0415  # see above
    from gateway.chaos.traffic import Agents, ChaosEndpoint  # noqa: PLC0415  # the other commands start without loading a server

    async with ChaosEndpoint(notes) as endpoint:
        intake, admin = free_address(), free_address()
        changed = settings_under_test(settings, folder, endpoint.url, intake, admin)
        gateway = GatewayUnderTest(changed, f"http://{admin}", folder / "gateway.log")
        token = settings.intake.token.get_secret_value() if settings.intake.token else None
        large_bytes = max(settings.split.two_phase_raw_threshold + MIB // 2, 64 * KIB)
        agents = Agents(
            f"http://{intake}/v1/calls", notes, token=token, large_bytes=large_bytes, run_id=secrets.token_hex(4)
        )
        console = Console(stderr=True)
        with console.status("starting a second gateway") as status:
            try:
                return await run_scenario(
                    plan, gateway, endpoint, agents, notes, lambda what: status.update(f"{what} …")
                )
            finally:
                await gateway.kill()


def settings_under_test(
    settings: Settings, folder: Path, url: str, intake: ListenAddress, admin: ListenAddress
) -> Settings:
    """The operator's settings, but with a spool, addresses, and one endpoint of the check's own.

    What would come in by another way is left to the operator's gateway: the spool of the check is thrown away.
    """
    changed: dict[str, object] = {
        "intake": settings.intake.model_copy(update={"listen": intake, **_IN_PLAIN}),
        "admin": settings.admin.model_copy(update={"listen": admin, "token": (), **_IN_PLAIN}),
        "audit": AuditSettings(),
        "traces": TracesSettings(),
        "webhooks": WebhookSettings(),
        "sources": (),
        "tenants": {},
        "spool": settings.spool.model_copy(
            update={"dir": folder / "spool", "max_bytes": SPOOL_BYTES, "reserve_for_cores": None, "expire_after": None}
        ),
        "whispey": WhispeySettings(),
        "destinations": (_endpoint_under_test(settings, url),),
    }
    return settings.model_copy(update=changed)


def _endpoint_under_test(settings: Settings, url: str) -> HttpDestination:
    """The operator's first endpoint, as far as it can be one on this machine."""
    first = next((one for one in settings.destinations if isinstance(one, HttpDestination)), None)
    model = first or HttpDestination(name="chaos", type="http", url=url)
    return model.model_copy(
        update={
            "url": url,
            "token": None,
            "token_mode": TokenMode.FORWARD,
            "ca_file": None,
            "presigned": PresignedSettings(),
            "delivered_when": (),
            "large": Large.TWO_PHASE if model.large is Large.PRESIGNED else model.large,
            "when_too_large": (),
            "retry": RetrySettings(initial=min(model.retry.initial, LONGEST_RETRY_SECONDS), max=LONGEST_RETRY_SECONDS),
        }
    )


def describe(outcome: "Outcome", notes: "Notes") -> RenderableType:
    """The report of the oracle."""
    verdict = outcome.verdict
    headline = plain("every promise was kept", "bold green") if outcome.passed else plain("NOT CLEAN", "bold red")
    shown = table("What", "Count", "", numbers=("Count",))

    def row(what: str, count: int, about: object = "", *, bad: bool = False) -> None:
        """A line of the report, in red where a `bad` count is not 0."""
        style = "bold red" if bad and count else ""
        shown.add_row(plain(what, style), plain(count_text(count), style), plain(about, style or "dim"))

    row("starts", outcome.starts, "of the gateway, each but the first after a SIGKILL")
    row("posted", verdict.posted, "call logs")
    row("acknowledged", verdict.acknowledged)
    row("delivered", verdict.delivered, "acknowledged, and arrived with all their parts")
    row("duplicated", verdict.duplicated, "requests that came again, with the same idempotency key")
    row("unacknowledged", verdict.unacknowledged, "arrived, though the agent never heard that it was acknowledged")
    row("turned away", notes.turned_away, "by the endpoint, which was made to fail")
    refused = ", ".join(f"{code} {count:,}" for code, count in notes.refused.most_common())
    row("refused", notes.refused.total(), refused)
    row("lost", len(verdict.lost), _named(verdict.lost), bad=True)
    row("altered", len(verdict.altered), _named(verdict.altered), bad=True)
    row("out of order", len(verdict.out_of_order), _named(verdict.out_of_order), bad=True)
    row("dead letters", outcome.dead, "see the log" if outcome.dead else "", bad=True)
    row("unaccounted", outcome.unaccounted, "by the gateway's own books", bad=True)
    if not outcome.drained:
        shown.add_row(plain("not drained", "bold red"), Text(), plain("what is left was not delivered in time"))
    if not outcome.filled:
        shown.add_row(plain("not filled", "yellow"), Text(), plain("the spool took all that was posted", "dim"))
    return Group(headline, Text(), shown)


def _named(calls: tuple[str, ...]) -> str:
    more = f" and {len(calls) - NAMED:,} more" if len(calls) > NAMED else ""
    return ", ".join(calls[:NAMED]) + more

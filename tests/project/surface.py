"""What callspool shows to the outside, taken from the code itself: metrics, routes, commands."""

from collections.abc import Iterator
from typing import cast
from unittest.mock import Mock

import click

from gateway.admin.app import WorkCollector, WorkFigures, build_admin_app
from gateway.admin.auth import Access
from gateway.admin.events import RecentEvents
from gateway.admin.gauges import GaugeCollector
from gateway.admin.metrics import Metrics
from gateway.admin.view import GatewayView
from gateway.heartbeats.source import HeartbeatSource
from gateway.intake.sources.batch import BatchSource
from gateway.intake.sources.sdk import SdkSource
from gateway.otlp.source import TraceSource

# Asking what there is reads nothing, so that no spool and no destination need to be there.
_NO_GATEWAY = cast("GatewayView", None)


def metrics() -> dict[str, tuple[str, str]]:
    """The name of every metric of ours as people write it, with its kind and its help text."""
    families = [
        *Metrics().registry.collect(),
        *GaugeCollector(_NO_GATEWAY).describe(),
        *WorkCollector(Mock(spec=WorkFigures)).describe(),
    ]
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: (family.type, family.documentation)
        for family in families
        if family.name.startswith("callspool_")
    }


def intake_paths() -> list[str]:
    """Every path of the intake as people write it; the address of an upload has a name of its own."""
    sources = (
        SdkSource(*[Mock()] * 6), BatchSource(*[Mock()] * 7), TraceSource(*[Mock()] * 5), HeartbeatSource(*[Mock()] * 5)
    )  # fmt: skip
    paths = [route.path.removeprefix("*") for source in sources for route in source.routes()]
    return ["upload_url" if path.startswith("/uploads/") else path for path in paths]


def admin_paths() -> list[str]:
    """Every path of the admin listener; what a path says beyond a name, such as a pattern, is left out."""
    app = build_admin_app(_NO_GATEWAY, Metrics(), RecentEvents(clock=lambda: 0), Access())
    return sorted({resource.canonical for resource in app.router.resources()})


def commands(group: click.Group, above: str = "callspool") -> Iterator[str]:
    """Every command below a group, as people type it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        typed, command = f"{above} {name}", group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, typed)
        else:
            yield typed


def options(group: click.Group, typed: str) -> set[str]:
    """The long options of a command as people type it, such as `callspool dead list`."""
    command: click.Command = group
    for name in typed.split()[1:]:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}

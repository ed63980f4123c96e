"""Subcommands that are loaded when they are asked for: what one of them imports, the others need not wait for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class OnDemandGroup(click.Group):
    """A group whose commands are found by the name of their module.

    `modules` says for each command which module of `gateway.cli` holds it, under the command's own name (with
    underscores). They are listed in sorted order, as click does.
    """

    def __init__(self, *arguments: Any, modules: Mapping[str, str], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """All names, for the help and for completion."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """The command of this name; None where there is none."""
        if cmd_name not in self._modules:
            return None
        module = import_module(f"gateway.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

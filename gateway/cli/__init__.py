"""The command line: `callspool run`, `status`, `dead list` and the others.

`run`, `work`, `check-config`, `s3`, `store`, `backfill`, `compare` and `fsck` read the configuration; `status`, `show`,
`calls`, `dead` and `deliveries` ask a running gateway through its admin API, `outbox import` posts to its intake.
`salvage`, `adopt` and `rekey` do either. A command is imported when it is used; what all of them share, the exit codes
and the form of errors with --json, is here.
"""

import io
import json
import math
import os
import sys
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import click


class Exit(IntEnum):
    """What the exit code of a command means."""

    OK = 0
    """All is well."""
    FAILED = 1
    """The command ran and did not succeed."""
    USAGE = 2
    """The command line or the configuration is wrong."""
    NO_GATEWAY = 3
    """No gateway answers at the admin address."""
    UNKNOWN_CALL = 4
    """The spool knows no call of this id."""
    UNSOUND = 5
    """The spool has something that needs attention."""


class FiniteRange(click.FloatRange):
    """A number within bounds; neither `nan`, which no bound excludes, nor `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that was typed; ends the command where it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class KeyFile(click.ParamType[str]):
    """A file that holds one key, or `-` for standard input; gives the key."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The key without the blanks around it; ends the command where the file holds none."""
        file = click.File(encoding="ascii", errors="replace").convert(value, param, ctx)
        key = str(file.read()).strip()
        if value != "-":
            file.close()
        if not fits_a_header(key):
            self.fail(f"{value} holds no key: a key has visible ASCII characters only", param, ctx)
        return key


def fits_a_header(token: str) -> bool:
    """Whether a token has visible ASCII characters only."""
    return bool(token) and token.isascii() and token.isprintable()


EPILOG = (
    "Exit codes: 0 all is well; 1 the command did not succeed; 2 the command line or the configuration is wrong; "
    "3 no gateway answers at the admin address; 4 the spool knows no such call; 5 the spool needs attention."
)
"""Stands at the end of the help."""

WITH_JSON = "callspool.json"
"""Under which click's context says that --json was given."""


def json_line(kind: str, message: str, hint: str = "", runbook: str | None = None) -> str:
    """An `error` or a `note` on standard error, with --json: `{"error": {"message": ..., "hint": ...}}`.

    What to do in full is beside them, as `runbook`, where there is such a section.
    """
    said = {"message": message, "hint": hint} | ({"runbook": runbook} if runbook else {})
    return json.dumps({kind: said}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command that is imported when it is used; `summary` is its line in the list of commands."""

    module: str
    summary: str


COMMANDS = {
    "run": LazyCommand("gateway.cli.run", "Accept call logs, store them durably, deliver them."),
    "work": LazyCommand("gateway.cli.run", "Read calls from Kafka and write them into a store."),
    "check-config": LazyCommand("gateway.cli.doctor", "Show the settings in effect; --probe tries endpoints."),
    "status": LazyCommand("gateway.cli.status", "Show backlog, destinations and spool of a running gateway."),
    "health": LazyCommand("gateway.cli.status", "Check that a gateway is alive, for probes; --ready."),
    "redact": LazyCommand("gateway.cli.redact", "Show what redaction does to call logs in files."),
    "post": LazyCommand("gateway.cli.post", "Post a call log from a file, as an agent does."),
    "show": LazyCommand("gateway.cli.tables", "Show where a call is: accepted, core sent, detail sent."),
    "tail": LazyCommand("gateway.cli.watch", "Follow calls: accepted, core sent, detail sent, in ms."),
    "top": LazyCommand("gateway.cli.watch", "Watch rates, backlog and the time until it is drained."),
    "drain": LazyCommand("gateway.cli.watch", "Wait until nothing is queued; --timeout."),
    "size": LazyCommand("gateway.cli.size", "Work out the disk and the link that your calls need."),
    "doctor": LazyCommand("gateway.cli.doctor", "Check settings, rights, disk, clock and destinations."),
    "bench": LazyCommand("gateway.cli.demo", "Measure what this machine and volume take, in 20 s."),
    "report": LazyCommand("gateway.cli.report", "Write a redacted bundle for a ticket."),
    "demo": LazyCommand("gateway.cli.demo", "Post three calls, kill the gateway, lose nothing."),
    "completion": LazyCommand("gateway.cli", "Print shell completion for bash, zsh or fish."),
    "resume": LazyCommand("gateway.cli.status", "Retry a destination that is down now."),
    "dead": LazyCommand("gateway.cli.dead", "List, replay, discard, export and import dead letters."),
    "deliveries": LazyCommand("gateway.cli.deliveries", "List, retry, reroute queued deliveries; replace tokens."),
    "reload": LazyCommand("gateway.cli.status", "Apply changed settings to a running gateway."),
    "erase": LazyCommand("gateway.cli.erase", "Erase calls, a caller or an agent everywhere."),
    "tenants": LazyCommand("gateway.cli.tenants", "List tenants; assign agents to them."),
    "s3": LazyCommand("gateway.cli.s3", "Set up and check a bucket."),
    "fsck": LazyCommand("gateway.cli.fsck", "Check a spool for damage; --repair repairs it."),
    "salvage": LazyCommand("gateway.cli.salvage", "Recover records from a damaged, quarantined database."),
    "adopt": LazyCommand("gateway.cli.salvage", "Take over the spool of a gateway that is gone."),
    "rekey": LazyCommand("gateway.cli.salvage", "Rotate the spool's key; encrypt what is not encrypted."),
    "outbox": LazyCommand("gateway.cli.outbox", "Rescue what the SDK left in its outbox."),
    "calls": LazyCommand("gateway.cli.calls", "List and show the calls in the store of a receiver."),
    "pipeline": LazyCommand("gateway.cli.pipeline", "Show the work on calls after they ended; redo it."),
    "callbacks": LazyCommand("gateway.cli.pipeline", "List and cancel callbacks; keep the do-not-call list."),
    "store": LazyCommand("gateway.cli.store", "Migrate and check the store of a receiver."),
    "webhooks": LazyCommand("gateway.cli.webhooks", "Test webhook sources; find out why a signature fails."),
    "backfill": LazyCommand("gateway.cli.store", "Fill calls_complete, day by day, back from the cutoff."),
    "compare": LazyCommand("gateway.cli.store", "Compare calls_merged and calls_complete, day by day."),
    "chaos": LazyCommand("gateway.cli.chaos", "Fault injection: kill, cut off and fill a second gateway."),
    "version": LazyCommand("gateway.cli", "Print the version."),
}


class OutputFailed(click.ClickException):
    """Standard output takes nothing more: the disk behind it is full, or failed."""


class LazyGroup(click.Group):
    """The commands of the table above. A command loads what it imports, and no other command's imports."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; --help and --version, too, find streams that can be written to."""
        secure_standard_streams()
        return super().main(*args, **extra)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """A context that knows from the start whether errors are wanted as JSON."""
        wanted = "--json" in (args[: args.index("--")] if "--" in args else args)
        context = super().make_context(info_name, args, parent, **extra)
        if wanted:
            context.meta[WITH_JSON] = True
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with --json, what is wrong with the command line is JSON, too."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # at the exit it would be too late to say that it fails
        except click.ClickException as error:
            if WITH_JSON not in ctx.meta:
                raise
            where = error.ctx if isinstance(error, click.UsageError) else None
            hint = "" if where is None else f"See `{where.command_path} --help`."
            click.echo(json_line("error", error.format_message(), hint), err=True)
            ctx.exit(error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """All names, for completion."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """The command of this name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name].module)
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named; the error of an unknown one names the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as above
        """The list of commands, from the table: no command is loaded for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in sorted(COMMANDS)])


class _StandardOutput(io.FileIO):
    """Standard output, whose failures cannot be taken for those of a file that a command writes."""

    def write(self, data: Any) -> int:
        """See `io.FileIO`. Raises `OutputFailed`, and `BrokenPipeError` where nobody reads any more."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            # What is left in buffers goes there: the flush at the exit would fail again.
            with Path(os.devnull).open("wb") as nothing:
                os.dup2(nothing.fileno(), self.fileno())
            raise OutputFailed(f"Standard output cannot be written to: {error.strerror}.") from None


def secure_standard_streams() -> None:
    """Open /dev/null for those that are closed, and escape what an encoding has no character for.

    A file that is opened later would get the number of a closed stream: the spool's database that of standard error.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # as Python's own
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and isinstance(getattr(out.buffer, "raw", out.buffer), io.FileIO):
        buffer = io.BufferedWriter(_StandardOutput(out.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(buffer, out.encoding, out.errors, line_buffering=out.line_buffering)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="callspool", prog_name="callspool", message="%(prog)s %(version)s")
def main() -> None:
    """A durable ingest gateway for the call logs of AI voice agents."""


_JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON, errors included.")


@click.command()
@_JSON_OPTION
def version(*, as_json: bool) -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version  # noqa: PLC0415  # a tenth of the start

    found = installed_version("callspool")
    click.echo(json.dumps({"callspool": found}) if as_json else f"callspool {found}")


_WHERE = {
    "bash": 'eval "$(callspool completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(callspool completion zsh)"       # in ~/.zshrc',
    "fish": "callspool completion fish | source      # in ~/.config/fish/config.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_WHERE)))
@_JSON_OPTION
def completion(shell: str, *, as_json: bool) -> None:
    """Print the script that makes SHELL (bash, zsh or fish) complete commands, options and their values.

    \b
    eval "$(callspool completion bash)"      # in ~/.bashrc
    eval "$(callspool completion zsh)"       # in ~/.zshrc
    callspool completion fish | source      # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415  # for this command alone

    made = get_completion_class(shell)
    assert made is not None, "one of those that click knows"
    script = made(main, {}, "callspool", "_CALLSPOOL_COMPLETE").source()
    click.echo(json.dumps({"shell": shell, "script": script, "where": _WHERE[shell]}) if as_json else script)

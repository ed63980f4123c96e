"""`callspool s3 setup` and `callspool s3 check`: what a bucket needs, and whether it works."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from config.destinations.s3 import S3Destination
from config.settings import Settings
from gateway.cli import Exit
from gateway.cli.options import chosen_destination, configuration_options, loaded_or_exit
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, table
from gateway.diagnostics.s3 import EXPIRE_DAYS, StepResult, apply_setup, least_policy, plan_setup
from gateway.diagnostics.s3 import check as proven
from gateway.runtime.options import s3_options

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def s3() -> None:
    """Set up a bucket, and check that callspool can deliver to it."""


def _destination_option(command: Command) -> Command:
    return click.option("--destination", metavar="NAME", help="The s3 destination; needed if there are several.")(
        command
    )


@s3.command(short_help="Show what a bucket needs; --apply sets it.")
@configuration_options
@_destination_option
@click.option("--apply", "with_apply", is_flag=True, help="Make the changes, with the credentials of this shell.")
@click.option(
    "--expire-days",
    type=click.IntRange(min=1),
    default=EXPIRE_DAYS,
    show_default=True,
    metavar="DAYS",
    help="Delete objects after this many days.",
)
@click.option("--whole-bucket", is_flag=True, help="Without a prefix: expire every object in the bucket.")
@json_option
def setup(
    file: Path | None, *, local: bool, destination: str | None, with_apply: bool, expire_days: int, whole_bucket: bool
) -> None:
    """Show what the bucket needs: expiry, encryption, no public access, and the least IAM policy."""
    bucket = _chosen(loaded_or_exit(file, local=local).settings, destination)
    if not with_apply:
        _show_plan(bucket, expire_days)
    elif not bucket.prefix and not whole_bucket:
        complain(
            f"{bucket.name} has no prefix: everything in the bucket {bucket.bucket} would expire.",
            hint="Set `prefix`, or pass --whole-bucket if nothing else is stored in this bucket.",
        )
        raise SystemExit(Exit.USAGE)
    else:
        _apply(bucket, expire_days)


@s3.command(short_help="Check a bucket by writing small objects.")
@configuration_options
@_destination_option
@json_option
def check(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Put, verify, upload in parts, list, abort and delete small objects; name missing permissions."""
    bucket = _chosen(loaded_or_exit(file, local=local).settings, destination)
    _tell(bucket, asyncio.run(proven(s3_options(bucket))))


def _chosen(settings: Settings, name: str | None) -> S3Destination:
    buckets = {each.name: each for each in settings.destinations if isinstance(each, S3Destination)}
    how = "Set CALLSPOOL_S3_BUCKET, or add one to the file."
    return chosen_destination(buckets, "s3 destination", name, how)


def _show_plan(bucket: S3Destination, expire_days: int) -> None:
    options, console = s3_options(bucket), output()
    steps, policy = (
        plan_setup(options, expire_days=expire_days),
        least_policy(options.bucket, options.folder, check=True),
    )
    if as_json():
        plan = [
            {"step": step.name, "operation": step.operation, "configuration": json.loads(step.configuration)}
            for step in steps
        ]
        print_json({"bucket": bucket.bucket, "steps": plan, "policy": policy})
        return
    for step in steps:
        console.print(plain(f"{step.name}: {step.purpose} ({step.operation})", "bold"))
        click.echo(step.configuration)
    console.print(plain("the least policy for the gateway, with what `callspool s3 check` needs", "bold"))
    click.echo(json.dumps(policy, indent=2))
    complain(f"Nothing was changed. --apply sets all but the policy for {bucket.bucket}.", style="yellow")


def _apply(bucket: S3Destination, expire_days: int) -> None:
    _tell(bucket, asyncio.run(apply_setup(s3_options(bucket), expire_days=expire_days)))


def _tell(bucket: S3Destination, results: Sequence[StepResult]) -> None:
    """A line for each step; exit code 1 if one of them failed."""
    shown = table("Step", "Result", "Remarks")
    for result in results:
        word, style = ("works", "green") if result.ok else ("failed", "bold red")
        word, style = ("skipped", "yellow") if result.ok and result.skipped else (word, style)
        shown.add_row(plain(result.name), plain(word, style), plain(result.detail))
    if as_json():
        print_json({"bucket": bucket.bucket, "steps": results})
    else:
        output().print(plain(f"{bucket.name}: bucket {bucket.bucket}", "bold"), shown, sep="\n")
    missing = sorted({result.permission for result in results if result.permission})
    if missing:
        complain(f"Missing permissions: {', '.join(missing)}.")
    if not all(result.ok for result in results):
        raise SystemExit(Exit.FAILED)

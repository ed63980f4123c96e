"""How little a command loads before it does its work: the start of a command is what its user waits for."""

import json
import math
import os
import re
import subprocess
import sys

import click
import pytest

from gateway.cli import COMMANDS, main

HEAVY = {
    "aioboto3", "aiohttp", "aiosqlite", "asyncio", "msgspec", "prometheus_client", "psutil", "pydantic", "rich",
    "spool.records", "sqlite3", "structlog", "uvloop", "zstandard",
}  # fmt: skip
ASKING = {"rich", "msgspec"}
"""What a command needs that asks a running gateway: tables, and the decoder of the answer."""
NOBODY = ("--admin", "127.0.0.1:9")

LOADED = """
import json, sys
from gateway.cli import main
for line in sys.stdin:
    try:
        main(json.loads(line), prog_name="callspool")
    except SystemExit:
        pass
    print("\\nloaded:", *sys.modules)
"""


@pytest.mark.parametrize(
    ("commands", "needed"),
    [
        ([("--help",), ("version",)], set()),
        (
            [
                ("status", *NOBODY),
                ("resume", "endpoint", *NOBODY),
                ("tail", *NOBODY),
                ("top", *NOBODY),
                ("health", *NOBODY),
                ("size", "--calls", "1/h", "--mb", "1", "--outage", "1h"),
            ],
            ASKING,
        ),
        (
            [
                ("show", "call-1", *NOBODY),
                ("dead", "list", *NOBODY),
                ("dead", "replay", "--all", *NOBODY),
                ("deliveries", "list", *NOBODY),
            ],
            ASKING | {"spool.records"},
        ),
        (
            [("fsck", "--help")],
            HEAVY - {"aiohttp", "aioboto3", "prometheus_client", "structlog", "uvloop", "zstandard"},
        ),
        ([("check-config", "--help")], HEAVY - {"aiohttp", "aiosqlite", "aioboto3", "prometheus_client", "uvloop"}),
        (
            [("outbox", "import", "--help")],
            HEAVY - {"aiohttp", "aiosqlite", "aioboto3", "prometheus_client", "pydantic"},
        ),
    ],
    ids=["nothing", "asking", "asking for deliveries", "fsck", "check-config", "outbox import"],
)
def test_a_command_loads_no_library_that_it_does_not_need(commands: list[tuple[str, ...]], needed: set[str]) -> None:
    """Whoever adds an import to a command that asks a gateway pays for it at each call, and sees it here.

    What needs the same libraries runs in one process, one after the other.
    """
    given = "".join(json.dumps(command) + "\n" for command in commands)
    done = subprocess.run([sys.executable, "-c", LOADED], input=given, capture_output=True, text=True, check=True)
    loaded = re.findall(r"^loaded: (.+)$", done.stdout, re.MULTILINE)
    assert [" ".join(command) for command, names in zip(commands, loaded, strict=True)
            if not set(names.split()) & HEAVY <= needed] == []  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "floor"),
    [
        (("--help",), "import click"),
        (
            ("status", *NOBODY),
            "import click, http.client, msgspec, rich.console, rich.live, rich.progress, rich.table",
        ),
    ],
    ids=["help", "status"],
)
def test_a_command_starts_about_as_fast_as_its_libraries(arguments: tuple[str, ...], floor: str) -> None:
    """CPU time, the least of several starts: our own modules take less than half of what their libraries take.

    What else a machine does only adds to it, so more starts are tried where the first ones took too long.
    """
    program = f"from gateway.cli import main; main({list(arguments)!r}, prog_name='callspool')"
    ours = libraries = math.inf
    for number in range(1, 21):
        ours, libraries = min(ours, cpu_seconds(program)), min(libraries, cpu_seconds(floor))
        if ours < 1.5 * libraries and number >= 3:
            return
    raise AssertionError(f"{ours:.3f} s, and {libraries:.3f} s for the libraries alone")


def test_the_list_of_commands_is_that_of_the_modules() -> None:
    """Each line of the table names a command that its module has, and says in one line of 80 what that does."""
    for name, command in COMMANDS.items():
        found = main.get_command(click.Context(main), name)
        assert found is not None
        assert found.help
        assert len(command.summary) + max(map(len, COMMANDS)) + 4 <= 80


def cpu_seconds(program: str) -> float:
    """User and system time of a Python process that runs this."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime

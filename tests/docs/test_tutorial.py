"""docs/tutorial.md: its commands are run in their order, by one shell, and what they print is what stands there."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project.repository import ROOT, text
from tests.system.gateway_process import ReservedPort

SECONDS = 60
_VARIES = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "DIGEST"),
    (re.compile(r"\b[0-9a-f]{8}-\d+"), "RECORD"),
    (re.compile(r"\d[\d.,:-]*"), "N"),
    (re.compile(r"\b(?:[kMG]?B|ms|s|min|now|in N s)\b"), "U"),
    (re.compile(r"\s+"), " "),
)
"""What differs from run to run."""


@dataclass(frozen=True)
class Step:
    """A command, and what it prints."""

    command: str
    printed: tuple[str, ...]


def steps(document: str) -> list[Step]:
    """What a console shows in this document."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            found.append(Step(command, tuple(printed.splitlines())))
    return found


def same(line: str) -> str:
    """A line without what varies."""
    for pattern, word in _VARIES:
        line = pattern.sub(word, line)
    return line.strip()


class Shell:
    """One bash, with job control, in a folder of its own."""

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CALLSPOOL_")}
        self._ports = ports
        self._jobs = 0
        defaults = folder / "defaults.toml"
        listen = [
            f'[{name}]\nlisten = "127.0.0.1:{ports[port]}"' for name, port in (("intake", "7717"), ("admin", "7718"))
        ]
        defaults.write_text("\n".join(listen), encoding="utf-8")
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **inherited, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                "CALLSPOOL_DEFAULTS": str(defaults), "COLUMNS": "100",
            },
        )  # fmt: skip
        self.run("set -m")

    def run(self, command: str) -> tuple[int, list[str]]:
        """Its exit code, and the lines that it prints; what runs in the background prints into a file."""
        for port, other in self._ports.items():
            command = command.replace(f":{port}", f":{other}").replace(f"receiver.py {port}", f"receiver.py {other}")
        if command.endswith("&"):
            self._jobs += 1
            command = f"{command[:-1]}>job.{self._jobs} 2>&1 &"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}\n}} 2>&1; code=$?; echo; echo END $code\n")
        self._process.stdin.flush()
        lines: list[str] = []
        while not (line := self._process.stdout.readline()).startswith("END "):
            assert line, lines
            lines.append(line.rstrip("\n"))
        if lines and not lines[-1]:
            lines.pop()
        lines = [each for each in lines if not re.match(r"\[\d+\]|bash: line \d+: +\d+ (Killed|Terminated)", each)]
        return int(line.split()[1]), lines

    def close(self) -> None:
        self.run("kill -9 $(jobs -p)")
        self._process.communicate("exit\n", timeout=30)


@pytest.mark.prove
def test_the_tutorial_shows_what_happens(tmp_path: Path) -> None:
    """Each command succeeds, and prints these lines, but for numbers, times and ids; `...` stands for anything."""
    shutil.copy(ROOT / "docs" / "examples" / "receiver.py", tmp_path)
    held = [ReservedPort() for _ in range(3)]
    shell = Shell(tmp_path, dict(zip(("7717", "7718", "8080"), (str(port.number) for port in held), strict=True)))
    found = steps(text("docs/tutorial.md"))
    assert len(found) > 10
    try:
        for step in found:
            code, printed = shell.run(step.command)
            shown = "\n".join([f"$ {step.command}", *printed])
            assert code == 0, shown
            wanted = r"\n".join(re.escape(same(line)).replace(r"\.\.\.", ".*") for line in step.printed)
            assert re.fullmatch(wanted, "\n".join(map(same, printed)), re.DOTALL), shown
    finally:
        shell.close()
        for port in held:
            port.close()

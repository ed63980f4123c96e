"""Replaces itself by a command under the filter of system calls that a unit sets: `filtered.py UNIT COMMAND ...`."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pyseccomp

_PR_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1
_EPERM = 1


def main() -> None:
    unit, *command = sys.argv[1:]
    allowed = _members("@default")
    for line in Path(unit).read_text(encoding="utf-8").splitlines():
        if line.startswith("SystemCallFilter="):
            named = line.removeprefix("SystemCallFilter=")
            calls = set().union(*map(_members, named.removeprefix("~").split()))
            allowed = allowed - calls if named.startswith("~") else allowed | calls
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(_EPERM))
    for name in sorted(allowed):
        try:
            rules.add_rule(pyseccomp.ALLOW, name)
        except OSError:  # another architecture has it
            continue
    # As MemoryDenyWriteExecute=yes; kernels before 6.3 do not know it.
    ctypes.CDLL(None).prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0)
    rules.load()
    os.execvp(command[0], command)


def _members(name: str) -> set[str]:
    """The system calls of a set, as systemd knows it."""
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    words = [line.strip() for line in shown.stdout.splitlines() if line.startswith("    ")]
    return set().union(*(_members(word) for word in words if not word.startswith("#")))


main()

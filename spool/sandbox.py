"""The sandbox of a process that reads what others wrote: an SDK's outbox, somebody else's spool, a giant call log.

Whoever can write such a file can make SQLite do much: delete what a rollback journal names, end the process by a
truncated `-shm`, allocate gigabytes. So it is opened in a process of its own that has little to lose and little to
give: an environment without secrets, no open files but its pipes and what it is given, limits on memory and CPU time,
and, where the kernel has Landlock (Linux 5.13 or later), access to one folder or none. It ends when the gateway does.

This module imports little, since the process that it confines pays for each import.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SAFE_SQLITE = (3, 53, 3)
"""From this version on, SQLite no longer deletes the file that a forged rollback journal names as its super-journal.

Tried with the journal of tests/outbox/hostile.py: 3.40.1, 3.50.4, 3.51.3 and 3.53.2 delete it, 3.53.3, 3.53.4 and
3.54.1 do not.
"""
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""What a Python process needs to start. Tokens and keys of the gateway have other names."""
LENGTH_BYTES = 4
"""Of the number that stands before each message between such a process and the gateway, little-endian."""
_ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds our packages, wherever it is installed."""
_RUN_MODULE = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_FIRST_TO_GO = "1000"
"""The highest oom_score_adj: an out-of-memory killer then chooses this process before the gateway."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the process may use."""

    cpu_seconds: int = resource.RLIM_INFINITY
    memory_bytes: int = resource.RLIM_INFINITY
    """Address space in all, mapped files included."""
    data_bytes: int = resource.RLIM_INFINITY
    """What it may allocate; mapped files do not count."""


def sqlite_is_safe(version: tuple[int, int, int] | None = None) -> bool:
    """Whether this SQLite, or one of this version, leaves alone what a forged journal names, without our care."""
    if version is None:
        from sqlite3 import sqlite_version_info  # noqa: PLC0415  # the parse worker has no use for it

        version = sqlite_version_info
    return version >= SAFE_SQLITE


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of the gateway's variables that the process is given: none that holds a secret."""
    return {name: variables[name] for name in _PASSED_ON if name in variables}


def module_command(module: str) -> tuple[str, ...]:
    """The command that runs one of our modules in a process of its own, as `python -m` would.

    A child looks for our packages in the folder that this process has them from before it looks anywhere else, so a
    `config.py` in `PYTHONPATH` or in the current directory (`-P`) is not mistaken for ours.
    """
    return (sys.executable, "-P", "-c", _RUN_MODULE, str(_ROOT), module)


def framed(data: bytes) -> bytes:
    """A message as it goes over a pipe: behind its length."""
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def read_message(pipe: BinaryIO) -> bytes | None:
    """The next message; None at the end of the pipe."""
    head = pipe.read(LENGTH_BYTES)
    return pipe.read(int.from_bytes(head, "little")) if len(head) == LENGTH_BYTES else None


def pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output of this process, for messages; a stray print goes to standard error from now on."""
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return os.fdopen(0, "rb", closefd=False), output


def confine(
    limits: Limits, folder: Path | None = None, *, readable: Collection[Path] = (), scratch: bool = False,
    threads: bool = False,
) -> bool:  # fmt: skip
    """Give up what this process does not need to work on the files in `folder`, or on those that it has open.

    Call it before any thread is started.

    It may still read below the paths of `readable`, with `scratch` make folders in `folder`, and with `threads` start
    threads until it calls `start_no_more`. It can gain no privileges, whatever it executes.

    Returns whether the kernel keeps it away from all other files. A signal that stops the gateway's whole group is
    ignored: the gateway still has work for this process, and ends it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # only Linux has it, and not in every container
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_DATA, limits.data_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # a lower hard limit is there already
            resource.setrlimit(kind, (limit, limit))
    if not threads:
        start_no_more()
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # Landlock needs it, and says so where it was refused
    rights = _FOLDER_RIGHTS | (_SCRATCH_RIGHTS if scratch else 0)
    own = {} if folder is None else {folder: rights}
    return _landlock(libc, {**own, **dict.fromkeys(readable, _READ_FILE | _READ_DIR)})


def start_no_more() -> None:
    """Start neither threads nor processes from now on; root may still."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


# Landlock, by its system calls: the C library has no functions for them. linux/landlock.h names the numbers.

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_GIVE_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8, 1 << 14
_REMOVE_DIR, _MAKE_DIR, _REFER = 1 << 4, 1 << 7, 1 << 13
_FOLDER_RIGHTS = _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_SCRATCH_RIGHTS = _REMOVE_DIR | _MAKE_DIR | _REFER
_FILE_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NEWEST_ABI = 6
_TCP = 0b11
"""From ABI 4 on: neither bind nor connect."""
_SCOPES = 0b11
"""From ABI 6 on: no abstract socket and no process outside can be reached."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _landlock(libc: ctypes.CDLL, paths: Mapping[Path, int]) -> bool:
    """Leave this process its rights below these paths, SQLite's source of randomness, and nothing else."""
    abi = min(int(libc.syscall(_CREATE_RULESET, None, 0, _GIVE_VERSION)), _NEWEST_ABI)
    if abi < 1:
        return False
    handled = _FILE_RIGHTS_BY_ABI[min(abi, max(_FILE_RIGHTS_BY_ABI))]
    rules = _Ruleset(handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = int(libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0))
    if ruleset < 0:
        return False
    try:
        allowed = all(_allow(libc, ruleset, path, rights & handled) for path, rights in paths.items())
        _allow(libc, ruleset, Path("/dev/urandom"), _READ_FILE)  # without it, SQLite takes the time
        if not allowed:
            return False
        return int(libc.syscall(_RESTRICT_SELF, ruleset, 0)) == 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> bool:
    """Add a rule; whether that went well."""
    try:
        parent = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        rule = _Beneath(rights, parent)
        return int(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)) == 0
    finally:
        os.close(parent)

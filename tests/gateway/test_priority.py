"""Giving way: real processes, since a priority cannot be taken back."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from gateway.process import Priority

NOW = os.getpriority(os.PRIO_PROCESS, 0)
"""The niceness that the tests were started with: a process may only become nicer."""


def nicer(by: int) -> int:
    return min(19, NOW + by)


TELL = """
import json, os, sys, threading
import psutil
from gateway.process import Priority, give_way

if sys.argv[2] == "somebody else":
    os.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[3]))
    os.setuid(65534)
refused = list(give_way(Priority(**json.loads(sys.argv[1]))))
told = []

def tell():
    io = psutil.Process(threading.get_native_id()).ionice()
    told.append([os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), int(io.ioclass), io.value])

thread = threading.Thread(target=tell)
thread.start()
thread.join()
print(json.dumps([refused, *told]))
"""


def in_a_process(priority: Priority, owner: str = "us", nice: int = NOW) -> list[list[object]]:
    """What was refused, and what a thread has that began afterwards: niceness, I/O class, level.

    Somebody else starts with the niceness `nice`.
    """
    command = [sys.executable, "-c", TELL, json.dumps(asdict(priority)), owner, str(nice)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    told: list[list[object]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("priority", "told"),
    [
        (Priority(nice=nicer(7)), [nicer(7), None, None]),
        (Priority(nice=nicer(3), io_class="best_effort", io_level=6), [nicer(3), 2, 6]),
        (Priority(io_class="idle"), [NOW, 3, None]),
    ],
    ids=["nice", "nice and best effort", "idle"],
)
def test_threads_that_begin_afterwards_have_it(priority: Priority, told: list[int | None]) -> None:
    """What is set at the start holds for the threads that do the work."""
    refused, shown = in_a_process(priority)
    assert refused == []
    assert [found for wanted, found in zip(told, shown, strict=True) if wanted is not None] == [
        wanted for wanted in told if wanted is not None
    ]


def test_nothing_is_set_unless_it_is_asked_for() -> None:
    """A gateway without these settings runs as it was started."""
    assert in_a_process(Priority()) == in_a_process(Priority(nice=NOW))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_what_the_system_refuses_is_explained() -> None:
    """Somebody who is nicer already cannot go back; the message says so, and everything goes on."""
    own = nicer(5)
    refused, _ = in_a_process(Priority(nice=own - 4, io_class="idle"), "somebody else", own)
    (told,) = refused
    assert f"priority.nice = {own - 4} cannot be set (Permission denied)" in str(told)
    assert f"only become nicer than it is, which is {own}" in str(told)

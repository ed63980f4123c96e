"""The log never holds up what is logged: a thread writes, a bounded queue drops and counts."""

import contextlib
import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from gateway.logs import LogWriter, announce, configure_logging, dropped_messages

PIPE_BYTES = 4096
F_SETPIPE_SZ = 1031


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds as little as the system allows: where to read, where to write."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, PIPE_BYTES)
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.fixture
def logged(pipe: tuple[int, int]) -> Iterator[tuple[LogWriter, logging.Logger]]:
    """A logger whose messages a writer of small capacity writes into the pipe."""
    writer = LogWriter(pipe[1], queue_bytes=8 * PIPE_BYTES)
    logger = logging.Logger("test")
    logger.addHandler(writer)
    yield writer, logger
    with contextlib.suppress(OSError):
        os.close(pipe[0])
    assert writer.wait_until_written(10), "it would write into what gets the number of this pipe"


def drain(reading: int, wanted: Callable[[bytes], bool], deadline: float = 10.0) -> bytes:
    """Read until what came is as wanted."""
    found, end = b"", time.monotonic() + deadline
    os.set_blocking(reading, False)
    while not wanted(found):
        assert time.monotonic() < end, found[-500:]
        try:
            found += os.read(reading, 65536)
        except BlockingIOError:
            threading.Event().wait(0.01)
    return found


def test_a_pipe_that_nobody_reads_holds_up_nobody(
    pipe: tuple[int, int], logged: tuple[LogWriter, logging.Logger]
) -> None:
    """Messages beyond the queue are dropped and counted at once; nobody waits for the reader."""
    writer, logger = logged
    begin = time.monotonic()
    for number in range(2_000):
        logger.warning("message %d %s", number, "x" * 100)
    assert time.monotonic() - begin < 2
    assert 1_000 < writer.dropped < 2_000


def dropped(text: bytes) -> int:
    """How many messages were dropped, by what the log says of it."""
    return sum(map(int, re.findall(rb"^log_messages_dropped (\d+)", text, re.MULTILINE)))


def test_once_it_flows_again_a_message_says_how_much_is_missing(
    pipe: tuple[int, int], logged: tuple[LogWriter, logging.Logger], restored_logging: None
) -> None:
    """What was queued comes out in order, with how much was dropped in between, then what is logged afterwards."""
    writer, logger = logged
    logging.getLogger().handlers[:] = [writer]
    structlog.configure(
        processors=[structlog.stdlib.render_to_log_kwargs], logger_factory=structlog.stdlib.LoggerFactory()
    )
    writer.setFormatter(logging.Formatter("%(message)s %(messages)s", defaults={"messages": ""}))
    for number in range(2_000):
        logger.warning("message %d %s", number, "x" * 100)
    text = drain(pipe[0], lambda found: found.endswith(b"\n") and dropped(found) == writer.dropped).decode()
    numbers = [int(line.split()[1]) for line in text.splitlines() if line.startswith("message")]
    assert numbers == sorted(numbers)
    assert 0 < writer.dropped == 2_000 - len(numbers)
    logger.warning("afterwards")
    assert b"afterwards" in drain(pipe[0], lambda found: b"afterwards" in found)


def test_a_reader_that_is_gone_costs_its_messages_only(
    pipe: tuple[int, int], logged: tuple[LogWriter, logging.Logger]
) -> None:
    """A closed pipe raises nothing where messages come from; they are counted."""
    writer, logger = logged
    os.close(pipe[0])
    logger.warning("lost")
    assert writer.wait_until_written(5)
    assert writer.dropped == 1


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(
    pipe: tuple[int, int], logged: tuple[LogWriter, logging.Logger]
) -> None:
    """A terminal shared with a program that made it non-blocking loses nothing."""
    writer, logger = logged
    os.set_blocking(pipe[1], False)
    for number in range(100):
        logger.warning("message %d %s", number, "x" * 100)
    text = drain(pipe[0], lambda found: found.count(b"\n") == 100)
    assert text.count(b"message") == 100
    assert writer.dropped == 0


def test_a_message_that_cannot_be_formatted_is_counted(logged: tuple[LogWriter, logging.Logger]) -> None:
    """Whoever logs does not suffer for it, and nothing is printed behind the writer's back."""
    writer, logger = logged
    logger.warning("%d", "no number")
    assert writer.dropped == 1


TROUBLE = {
    "a warning": "import warnings; warnings.warn('t' * 70000)",
    "an error in a thread": "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "an error in a finalizer": "class A:\n def __del__(self): raise ValueError('t' * 70000)\nA()",
    "an error in a callback": (
        "import asyncio\nasync def f(): asyncio.get_running_loop().call_soon(lambda: 1 / 0); await asyncio.sleep(0)\n"
        "asyncio.run(f())"
    ),
    "the end by an error": "import sys; sys.stdout.write('done'); sys.stdout.flush(); raise ValueError('t' * 70000)",
}
"""What Python itself would print to standard error, waiting for whoever reads it."""


@pytest.mark.parametrize("code", TROUBLE.values(), ids=TROUBLE)
def test_what_python_prints_by_itself_holds_up_nobody_either(code: str) -> None:
    """With a full pipe at standard error that nobody reads, the program goes on, and ends in time."""
    program = "from gateway.logs import configure_logging; configure_logging(as_text=True)\n" + (
        "import logging\nfor _ in range(100): logging.warning('x' * 1000)\n" + code + "\nprint('done')"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, F_SETPIPE_SZ, PIPE_BYTES)
        try:
            assert process.stdout is not None
            assert process.stdout.read(4) == b"done"
            process.wait(timeout=20)
        finally:
            process.kill()


def test_texts_for_people_go_the_same_way_and_only_to_people(
    pipe: tuple[int, int], restored_logging: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An announcement is written as it is where messages are text, and not at all where they are JSON."""
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    try:
        with os.fdopen(os.dup(pipe[1]), "w") as stream:
            configure_logging(as_text=False, stream=stream)
            assert not announce("for people")
            configure_logging(as_text=True, stream=stream)
            assert announce("for people")
            assert drain(pipe[0], lambda found: b"\n" in found) == b"for people\n"
            assert dropped_messages() == 0
    finally:
        logging.captureWarnings(capture=False)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def test_json_lines_stay_whole(pipe: tuple[int, int], restored_logging: None) -> None:
    """Many threads that log at once make whole lines."""
    with warnings.catch_warnings(), os.fdopen(os.dup(pipe[1]), "w") as stream:
        hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
        try:
            configure_logging(as_text=False, stream=stream)

            def log() -> None:
                for _ in range(20):
                    logging.warning("y" * 300)

            threads = [threading.Thread(target=log) for _ in "abcd"]
            for thread in threads:
                thread.start()
            text = drain(pipe[0], lambda found: found.count(b"\n") == 80)
            for thread in threads:
                thread.join()
            assert all(json.loads(line)["event"] == "y" * 300 for line in text.splitlines())
        finally:
            logging.captureWarnings(capture=False)
            sys.excepthook, threading.excepthook, sys.unraisablehook = hooks

"""A process that has imported all of callspool, and forks at each request: the child is a `callspool` that has started.

    python preloaded_server.py DESCRIPTOR

The descriptor is a socket; `tests.system.preloaded` has the other end, and says what it sends.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from callspool import launcher

USED_BY_SOME = (
    "aioboto3",
    "aiobotocore.httpsession",
    "confluent_kafka",
    "encodings.idna",
    "importlib.resources.readers",
    "psycopg",
    "uvloop",
)
"""What `callspool run` imports where a destination needs it, or late."""
FULL_HEADROOM = "TESTS_FULL_HEADROOM"
"""The variable with which a program has the headroom that it has elsewhere, for tests of a full disk."""


def main() -> None:
    """Serve; a child leaves that, and becomes the program."""
    sys.path.pop(0)  # this folder, which is none of the program's
    launcher.put_own_folder_first()
    from gateway.cli import COMMANDS
    from gateway.cli import main as callspool

    for command in COMMANDS.values():
        import_module(command.module)
    for name in USED_BY_SOME:
        with suppress(ImportError):
            import_module(name)
    _build_models()
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    if module := request["module"]:
        sys.path.insert(0, request["folder"])
        _run(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))
    else:
        _run(lambda: callspool(prog_name="callspool"))


def _build_models() -> None:
    """Those of the settings, which are built when they are first used: a third of what a start costs."""
    from config import catalogue
    from config.types import Table

    def below(model: type[Table]) -> Iterator[type[Table]]:
        yield model
        for each in model.__subclasses__():
            yield from below(each)

    for model in below(Table):
        model.model_rebuild()
    catalogue.variables()
    catalogue.source_settings()


def _run(program: Callable[[], object]) -> None:
    """Run it to its end, and leave at once then: an interpreter that takes all modules apart copies their pages."""
    code = 0
    try:
        program()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    threading._shutdown()  # type: ignore[attr-defined]  # joins the other threads, as an end does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork at each message, until the other end is closed. Returns the message in a child."""
    woken, wakes = os.pipe()
    watched: list[socket.socket | int] = [control, woken]
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    answers: dict[int, int] = {}
    while True:
        ready, _, _ = select.select(watched, [], [])
        if woken in ready:
            os.read(woken, 4096)
            while answers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _answer(answers[ended[0]], os.waitstatus_to_exitcode(ended[1]))
                os.close(answers.pop(ended[0]))
        if control in ready:
            request, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 4)
            if not request:
                return None
            *streams, answer = descriptors
            child = os.fork()
            if not child:
                control.detach()
                asked: dict[str, Any] = json.loads(request)
                _become(asked, streams)
                return asked
            answers[child] = answer
            _answer(answer, child)
            for stream in streams:
                os.close(stream)


def _answer(descriptor: int, number: int) -> None:
    """Whoever asked may be gone."""
    with suppress(BrokenPipeError):
        os.write(descriptor, number.to_bytes(4, "little", signed=True))


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """What a start sets: signals, streams, no other descriptor, arguments, environment, directory."""
    signal.set_wakeup_fd(-1)
    # Whoever runs the tests in the background, or under nohup, has some ignored for all that is started.
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
    os.closerange(3, 256)
    sys.argv[:] = request["arguments"]
    os.environ.clear()
    os.environ.update(request["environment"])
    if os.environ.pop(FULL_HEADROOM, None) is None:
        from spool import space

        space.LARGEST_HEADROOM_BYTES = space.SMALLEST_HEADROOM_BYTES
    time.tzset()
    os.chdir(request["folder"])


if __name__ == "__main__":
    main()

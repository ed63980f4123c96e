"""Logging: one set-up for our own messages and for those of libraries.

Everything goes to standard error, as JSON lines or, at a terminal, as coloured text; times are UTC in ISO 8601.
Secrets are kept out of messages where they are written; what is masked here is the second line of defence.

Logging never waits for the reader of the log: a thread writes, from a bounded queue that drops and counts what does not
fit. Otherwise a pipe that nobody reads, or a terminal stopped with Ctrl-S, would freeze the event loop.
"""

import atexit
import logging
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gateway.runbooks import RUNBOOK_OF
from uploaders.redact import MASK, redact

_SECRET_KEY = re.compile(
    r"(?:^|[_.-])(?:token|secret|password|passwd|authorization|api[_-]?key|cookie|credentials?|signature)$",
    re.IGNORECASE,
)


def configure_logging(level: str = "info", *, as_text: bool | None = None, stream: TextIO | None = None) -> None:
    """Send every message of at least `level` to `stream` (standard error). Replaces what was set.

    Each message is a JSON object in a line of its own, or text with `as_text`; None: text at a terminal only.

    Access logs of the web server are left out: posts are counted by metrics, not written down one by one.
    """
    target = sys.stderr if stream is None else stream
    if as_text is None:
        as_text = target.isatty()
    descriptor = _descriptor_of(target)
    handler: logging.Handler
    if descriptor is None:
        handler = logging.StreamHandler(target)
    else:
        handler = LogWriter(descriptor, as_text=as_text)
        _log_what_python_prints()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_described(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact_event,
                _lead_with_the_event,
                _name_the_runbook,
                _renderer(as_text=as_text, colors=target.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_described(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _descriptor_of(stream: TextIO) -> int | None:
    """The file behind a stream; None for one in memory."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def redact_event(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Mask what looks like a secret, by the name of its key or by its form within a text."""
    return {key: _redacted(key, value) for key, value in event_dict.items()}


def redact_value(value: object) -> object:
    """The same for a value that is written elsewhere."""
    return _redacted(None, value)


def _lead_with_the_event(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Time, level and event first: a line is read from its beginning."""
    leading = {key: event_dict[key] for key in ("timestamp", "level", "event") if key in event_dict}
    return {**leading, **event_dict}


def _name_the_runbook(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """What to do about it, where a runbook says so."""
    found = RUNBOOK_OF.get(str(event_dict.get("event")))
    return event_dict if found is None else {**event_dict, "runbook": event_dict.get("runbook", found.value)}


def _redacted(key: object, value: object) -> object:
    if isinstance(key, str) and isinstance(value, str | bytes) and _SECRET_KEY.search(key):
        return MASK
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes | BaseException):
        return redact(str(value))
    if isinstance(value, dict):
        return {name: _redacted(name, below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(key, below) for below in value]
    return value


def _described() -> list[Processor]:
    """What every message gets: its context, level, logger and time."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]


def _renderer(*, as_text: bool, colors: bool) -> Processor:
    if as_text:
        return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer()


# The writer: what the event loop and other threads log waits in a queue for a thread that writes it.

QUEUE_BYTES = 1 << 20
"""Some thousand messages: enough for a reader that is slow for a moment."""
FLUSH_SECONDS = 1.0
"""How long the end of the process waits for the last messages to be written."""
_WRITE_BYTES = 64 << 10


class LineQueue:
    """A bounded queue of lines that a thread of its own writes. `put` never waits.

    `write` is called in that thread with whole lines, and returns whether they could be written; `missed`, in that
    thread as well, with how many were lost since it was called before.
    """

    def __init__(
        self,
        write: Callable[[bytes], bool],
        *,
        name: str,
        queue_bytes: int = QUEUE_BYTES,
        missed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._write = write
        self._name = name
        self._queue_bytes = queue_bytes
        self._missed = missed
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._idle = True
        self._unreported = 0
        self.dropped = 0
        """Lines that found the queue full, or that could not be written."""

    def put(self, line: bytes) -> None:
        """Queue a line, or drop and count it."""
        with self._changed:
            # The report about what was dropped, which the writing thread makes, always has room.
            if self._queued + len(line) > self._queue_bytes and threading.current_thread() is not self._thread:
                self.dropped += 1
                self._unreported += 1
                return
            self._queue.append(line)
            self._queued += len(line)
            self._idle = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
                atexit.register(self.wait_until_written, FLUSH_SECONDS)
            self._changed.notify_all()

    def drop(self, count: int) -> None:
        """Count lines that were lost elsewhere."""
        with self._changed:
            self.dropped += count
            self._unreported += count

    def wait_until_written(self, seconds: float) -> bool:
        """Wait at most `seconds` until the queue is empty; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._idle = True
                    self._changed.notify_all()
                    self._changed.wait()
                lines = list(self._queue)
                self._queue.clear()
            # What is being written still counts as queued: the memory is in use until then.
            if not self._write(b"".join(lines)):
                self.drop(len(lines))
            with self._changed:
                self._queued -= sum(map(len, lines))
                missed, self._unreported = self._unreported, 0
            if missed:
                self._missed(missed)


class LogWriter(logging.Handler):
    """Writes messages to a file descriptor from a thread of its own. `emit` never waits for the reader."""

    def __init__(self, descriptor: int, *, as_text: bool = False, queue_bytes: int = QUEUE_BYTES) -> None:
        super().__init__()
        self.as_text = as_text
        """Whether people read it."""
        self._descriptor = descriptor
        self._lines = LineQueue(self._write_all, name="log", queue_bytes=queue_bytes, missed=_report_dropped)

    @property
    def dropped(self) -> int:
        """Messages that found the queue full, or that could not be written."""
        return self._lines.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a message, or drop and count it."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  # no message may fail its caller; it is counted
            self._lines.drop(1)
            return
        self.write(text)

    def write(self, text: str) -> None:
        """Queue a text for a line of its own, or drop and count it."""
        self._lines.put(f"{text}\n".encode(errors="backslashreplace"))

    def wait_until_written(self, seconds: float) -> bool:
        """Wait at most `seconds` until the queue is empty; returns whether it is."""
        return self._lines.wait_until_written(seconds)

    def _write_all(self, data: bytes) -> bool:
        """Whether all of it could be written; waits as long as that takes."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view[:_WRITE_BYTES]) :]
            except BlockingIOError:  # somebody else, who shares the terminal or pipe, made it non-blocking
                select.select((), (self._descriptor,), ())
            except OSError:  # nobody reads any more
                return False
        return True


def _report_dropped(messages: int) -> None:
    structlog.get_logger("callspool").warning("log_messages_dropped", messages=messages)


def dropped_messages() -> int:
    """How many messages were dropped because nobody read the log."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, LogWriter))


def announce(text: str) -> bool:
    """Write a text for people as it is, where messages are text. Returns whether they are."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogWriter) and handler.as_text:
            handler.write(text)
            return True
    return False


def _log_what_python_prints() -> None:
    """Let tracebacks that Python itself would print to standard error, waiting for its reader, be messages."""
    log = logging.getLogger("python")
    logging.captureWarnings(capture=True)

    def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        """The main thread ends by this error."""
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
            return
        log.critical("uncaught exception", exc_info=(kind, error, traceback))

    def uncaught_in_thread(failed: threading.ExceptHookArgs) -> None:
        """Another thread ends by this error."""
        if failed.exc_value is not None:
            log.error("uncaught exception in a thread", exc_info=failed.exc_value)

    def unraisable(failed: "sys.UnraisableHookArgs") -> None:
        """An error where none can be raised, such as in a finalizer."""
        log.error("exception ignored in %r", failed.object, exc_info=failed.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable

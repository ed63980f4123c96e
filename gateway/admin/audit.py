"""The audit log: who gave which order, or read which call log, from where, and what came of it.

One JSON object a line, into a file of its own, or as messages called `audit` in the log. Writing never holds up the
event loop: a thread writes, from a bounded queue; what does not fit, or cannot be written, is counted.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

from gateway.admin.answers import CODE
from gateway.logs import LineQueue, dropped_messages, redact_value

_LOGGER = "callspool.audit"
_FACTS = web.RequestKey("facts", dict)
_LONGEST_PATH = 500
CLOSE_SECONDS = 5.0
"""How long the end of a gateway waits for the last lines to be written."""

_log = structlog.get_logger(_LOGGER)
_encode = msgspec.json.Encoder().encode


class AuditFile:
    """A file of audit lines, 0600. When it would exceed `max_bytes` it becomes `NAME.1`, and `keep` of these are kept.

    For one thread. It is opened anew when another program moved or removed it, as logrotate does. Raises `OSError` at
    the start when it cannot be opened, is a link, or belongs to somebody else.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = self._open()

    def write(self, data: bytes) -> bool:
        """Append whole lines; whether all of them are in the file."""
        try:
            self._follow()
            size = os.fstat(self._descriptor).st_size
            if size and size + len(data) > self._max_bytes:
                self._rotate()
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            structlog.get_logger("callspool").error("audit_log_failed", file=str(self._path), reason=str(error))
            return False
        return True

    def _open(self) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_uid not in {os.geteuid(), 0}:
            os.close(descriptor)
            raise PermissionError(f"{self._path} is no file of this user's own")
        if about.st_uid == os.geteuid():
            os.fchmod(descriptor, stat.S_IMODE(about.st_mode) & 0o640)
        return descriptor

    def _follow(self) -> None:
        """Open the file anew where its name leads to another one, or to none."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.lstat(), os.fstat(self._descriptor)):
                return
        self._reopen()

    def _reopen(self) -> None:
        descriptor = self._open()
        os.close(self._descriptor)
        self._descriptor = descriptor

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))
        self._reopen()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class AuditLog:
    """Takes entries from the event loop, for the log, or for a file once there is one."""

    def __init__(self) -> None:
        self._queue: LineQueue | None = None
        self._dropped_from_log = 0
        # Whatever the level of the log is, an order stands in it.
        logging.getLogger(_LOGGER).setLevel(logging.INFO)

    @property
    def dropped(self) -> int:
        """Lines that were lost: the queue was full, or the file could not be written."""
        return self._dropped_from_log if self._queue is None else self._queue.dropped

    def write_to(self, file: AuditFile) -> None:
        """Write into a file from now on."""
        self._queue = LineQueue(file.write, name="audit")

    def record(self, entry: Mapping[str, object]) -> None:
        """Note an entry; never waits."""
        if self._queue is None:
            before = dropped_messages()
            _log.info("audit", **entry)
            self._dropped_from_log += min(1, dropped_messages() - before)
            return
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
        self._queue.put(_encode(redact_value(line)) + b"\n")

    async def close(self) -> None:
        """Wait until what was noted is written, but not for ever."""
        if self._queue is not None:
            await asyncio.to_thread(self._queue.wait_until_written, CLOSE_SECONDS)


def note(request: web.Request, **facts: object) -> None:
    """Add to the entry about this request what it was about, or what came of it, such as another `outcome`."""
    request.setdefault(_FACTS, {}).update(facts)


async def audited(
    log: AuditLog,
    action: str,
    who: Mapping[str, object],
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    refusal: web.StreamResponse | None,
) -> web.StreamResponse:
    """Answer a request, and note it: who, what, and the outcome, also when it fails or the client goes away."""
    outcome, response = "aborted", refusal
    try:
        if response is None:
            response = await handler(request)
        outcome = "refused" if refusal is not None else "done" if response.status < 400 else "failed"
        return response
    except Exception:
        outcome = "failed"
        raise
    finally:
        facts: dict[str, Any] = request.get(_FACTS, {})
        result = {
            "outcome": facts.pop("outcome", outcome),
            "status": response and response.status,
            "code": response and response.get(CODE),
        }
        entry = {"action": action, **who, "request": f"{request.method} {request.path_qs[:_LONGEST_PATH]}"}
        log.record({name: value for name, value in {**entry, **facts, **result}.items() if value is not None})

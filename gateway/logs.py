"""Logging: one set-up for our own messages and for those of libraries.

Everything goes to standard error, as JSON lines or, at a terminal, as coloured text; times are UTC in ISO 8601.
Secrets are kept out of messages where they are written; what is masked here is the second line of defence.
"""

import logging
import re
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

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
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_described(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact_event,
                _lead_with_the_event,
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


def redact_event(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Mask what looks like a secret, by the name of its key or by its form within a text."""
    return {key: _redacted(key, value) for key, value in event_dict.items()}


def _lead_with_the_event(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Time, level and event first: a line is read from its beginning."""
    leading = {key: event_dict[key] for key in ("timestamp", "level", "event") if key in event_dict}
    return {**leading, **event_dict}


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

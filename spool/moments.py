"""Times as agents write them: read in one way, whether a call log is accepted, shown or written into a store. Pure."""

import re
from datetime import UTC, datetime
from typing import Final

END_OF_TIMES: Final = 253_402_300_800
"""The year 10000, in seconds since the Unix epoch: ISO 8601 and Python have no date for it."""
LATEST: Final = END_OF_TIMES * 1000 - 1
"""The last millisecond of the year 9999: every store has room for it."""
_SMALLEST_MILLISECONDS: Final = 1e11
"""In milliseconds this is March 1973: no call is older."""
_is_unix_text: Final = re.compile(r"[0-9]{9,19}(?:\.[0-9]+)?").fullmatch


def read_moment(value: object) -> datetime | float | None:
    """What an ISO 8601 string says, or the Unix seconds of a number or its text, whatever unit it counts.

    None for what is no time: whoever asks decides whether that is a fault.
    """
    try:
        if isinstance(value, str):
            return _seconds(float(value)) if _is_unix_text(value) else datetime.fromisoformat(value)
        if isinstance(value, (float, int)) and not isinstance(value, bool):  # a union would be made for each question
            return _seconds(float(value))
    except (ValueError, OverflowError):
        return None
    return None


def milliseconds_of_moment(value: object) -> int | None:
    """The same in milliseconds since the Unix epoch, wherever that lies; a time without an offset counts as UTC."""
    at = read_moment(value)
    if isinstance(at, datetime):
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    try:
        return None if at is None else round(at * 1000)
    except (ValueError, OverflowError):  # no number, or an infinite one
        return None


def _seconds(number: float) -> float:
    """A Unix time in seconds: one of more than 1e11 (the year 5138) counts a thousandth, a millionth or a billionth."""
    for _ in range(3):
        if number >= _SMALLEST_MILLISECONDS:
            number /= 1000
    return number

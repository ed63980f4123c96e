"""Numbers as people read them: rounded, with a unit. Pure."""

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def bytes_text(count: int) -> str:
    """A size with three digits at most before the unit (powers of 1000): `512 B`, `4.2 MB`, `480 GB`."""
    size = float(count)
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    digits = 1 if unit and size < 99.95 else 0
    return f"{size:.{digits}f} {_UNITS[unit]}"


def age_text(seconds: float | None) -> str:
    """A span of time with its two largest units: `5 s`, `12 min`, `3 h 5 min`, `2 d 4 h`; `-` for None."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min"
    if whole < 2 * DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def count_text(count: int) -> str:
    """A count with its thousands apart: `12,345`."""
    return f"{count:,}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun, and what else depends on it: `1 attempt`, `2 attempts`, `2 rows are left`.

    Without `many` the plural is made by an s.
    """
    return f"{count_text(count)} {one if count == 1 else many or one + 's'}"

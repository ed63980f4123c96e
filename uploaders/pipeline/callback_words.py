"""When a caller wants to be called back: from their words to a time. Pure.

Only words beside a callback phrase count, and only what says a day or an hour; a parser of dates in general takes "I
may call you back" for May. What says neither, or lies further ahead than `HORIZON`, means the next working hour. Times
are wall-clock times in the tenant's zone, so that "tomorrow at nine" is nine also where the clocks change tonight.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from uploaders.pipeline.options import CallbackRule
from uploaders.stores.pipeline import CallText, NewCallback

HORIZON: Final = timedelta(days=30)
_PHRASE: Final = re.compile(
    r"\b(?:call|ring|phone|reach|try)\s+(?:me|us)\s*(?:back|again|later)?\b|\bcall(?:\s+me)?\s*back\b|\bcallback\b"
    r"|\bgive\s+(?:me|us)\s+a\s+(?:call|ring)\b",
    re.IGNORECASE,
)
_NEGATED: Final = re.compile(
    r"\b(?:don'?t|do\s+not|never|no\s+need\s+to|stop)\b[^.!?]{0,20}\b(?:call|ring|phone|reach|try)", re.IGNORECASE
)
_SENTENCE: Final = re.compile(r"[^.!?\n]+(?:\.(?=\S)[^.!?\n]+)*")
_NUMBERS: Final[Mapping[str, int]] = {
    word: value
    for value, words in enumerate(
        ("zero", "a one an", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
    for word in words.split()
}
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS: Final = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
                  "november", "december")  # fmt: skip
_LOOKED_UP: Final = re.IGNORECASE | re.ASCII
"""For words that are looked up as they were found: without ASCII an s may be a long s, an i a dotless one."""
_NUMBER: Final = rf"(\d{{1,3}}|{'|'.join(_NUMBERS)})"
_IN: Final = re.compile(rf"\bin\s+(?:about\s+)?(half\s+an|{_NUMBER})\s+(minute|hour|day|week)s?\b", _LOOKED_UP)
_CLOCK: Final = re.compile(
    rf"\b(?:at\s+|around\s+|after\s+|by\s+)?(\d{{1,2}})(?::(\d{{2}}))?\s*([ap])\.?\s?m\b\.?"
    rf"|\b(?:at\s+|around\s+|after\s+|by\s+)?(\d{{1,2}}):(\d{{2}})\b|\b(?:at|around|after|by)\s+{_NUMBER}\b(?!\s*(?:%|dollars|euros|minutes|days))"
    rf"|\b{_NUMBER}\s+o'?clock\b",
    _LOOKED_UP,
)
_PARTS: Final[Mapping[str, int]] = {
    "morning": 9,
    "noon": 12,
    "midday": 12,
    "afternoon": 14,
    "evening": 17,
    "tonight": 18,
}
_NEAR: Final[Mapping[str, int]] = {"day after tomorrow": 2, "tomorrow": 1, "today": 0, "tonight": 0}
"""In the order in which they are looked for."""
_ISO: Final = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_MONTH: Final = "|".join(_MONTHS)
_DAY_MONTH: Final = re.compile(
    rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\b|\b({_MONTH})\s+(\d{{1,2}})(?:st|nd|rd|th)?\b",
    _LOOKED_UP,
)


def wanted_words(text: CallText) -> str | None:
    """The last sentence in which the caller asks to be called back; None where there is none."""
    for role, said in reversed(text.turns):
        if role != "caller":
            continue
        for found in reversed(_SENTENCE.findall(said)):
            if _PHRASE.search(found) and not _NEGATED.search(found):
                return " ".join(found.split())[:200]
    return None


def callback_of(text: CallText, words: str, rule: CallbackRule, now: int) -> NewCallback | None:
    """When to call back; None without a number. The number is that of the call's metadata, never one that was said."""
    if not text.number:
        return None
    base = now if text.ended_at is None else min(text.ended_at, now)
    at = resolve(words, base, rule)
    due_at = next_allowed(max(at or now, now), rule)
    return NewCallback(due_at, rule.zone, words, text.number)


def resolve(words: str, base: int, rule: CallbackRule) -> int | None:
    """The time that these words mean, said at `base` (both in milliseconds); None where they mean none."""
    zone = ZoneInfo(rule.zone)
    said_at = datetime.fromtimestamp(base / 1000, zone)
    found = _IN.search(words)
    if found:
        amount = 0.5 if found[1].lower().startswith("half") else _number(found[2])
        unit = found[3].lower()
        at = datetime.fromtimestamp(base / 1000, UTC) + timedelta(**{f"{unit}s": amount})
        clock = _clock(words[found.end() :], rule) if unit in {"day", "week"} else None
        if clock is not None:
            local = at.astimezone(zone)
            at = local.replace(hour=clock[0], minute=clock[1], second=0, microsecond=0)
        return _within_horizon(at, said_at)
    day, clock = _day(words, said_at.date()), _clock(words, rule)
    if day is None and clock is None:
        return None
    hour, minute = clock or (rule.first_hour, 0)
    at = datetime.combine(day or said_at.date(), datetime.min.time(), zone).replace(hour=hour, minute=minute)
    if day is None and at <= said_at:
        at += timedelta(days=1)
    return _within_horizon(at, said_at)


def next_allowed(moment: int, rule: CallbackRule) -> int:
    """The first millisecond at or after `moment` at which somebody may be called."""
    zone = ZoneInfo(rule.zone)
    local = datetime.fromtimestamp(moment / 1000, zone)
    if local.weekday() in rule.days and rule.first_hour <= local.hour < rule.last_hour:
        return moment
    day = local.date() if local.hour < rule.first_hour else local.date() + timedelta(days=1)
    while day.weekday() not in rule.days:
        day += timedelta(days=1)
    opening = datetime.combine(day, datetime.min.time(), zone).replace(hour=rule.first_hour)
    return max(moment, round(opening.timestamp() * 1000))


def day_begin(moment: int, rule: CallbackRule) -> int:
    """When the day of `moment` began in the zone of the rule."""
    zone = ZoneInfo(rule.zone)
    local = datetime.fromtimestamp(moment / 1000, zone)
    return round(datetime.combine(local.date(), datetime.min.time(), zone).timestamp() * 1000)


def _within_horizon(at: datetime, said_at: datetime) -> int | None:
    ahead = at.timestamp() - said_at.timestamp()
    return round(at.timestamp() * 1000) if 0 <= ahead <= HORIZON.total_seconds() else None


def _day(words: str, today: date) -> date | None:
    lower = words.lower()
    if found := _ISO.search(lower):
        return _date(int(found[1]), int(found[2]), int(found[3]))
    if found := _DAY_MONTH.search(lower):
        month, day = (found[2], found[1]) if found[1] else (found[3], found[4])
        given = _date(today.year, _MONTHS.index(month) + 1, int(day))
        return _date(today.year + 1, _MONTHS.index(month) + 1, int(day)) if given and given < today else given
    for name, ahead in _NEAR.items():
        if name in lower:
            return today + timedelta(days=ahead)
    for number, name in enumerate(_WEEKDAYS):
        if re.search(rf"\b{name}\b", lower):
            return today + timedelta(days=(number - today.weekday() - 1) % 7 + 1)
    return today + timedelta(days=7 - today.weekday()) if "next week" in lower else None


def _clock(words: str, rule: CallbackRule) -> tuple[int, int] | None:
    for found in _CLOCK.finditer(words):
        if found[3]:
            hour, minute = int(found[1]) % 12 + (12 if found[3].lower() == "p" else 0), int(found[2] or 0)
        elif found[4]:
            hour, minute = int(found[4]), int(found[5])
        else:
            hour, minute = _number(found[6] or found[7]), 0
            if hour < rule.first_hour and hour + 12 < 24:  # "at three" is in the afternoon where nobody works at night
                hour += 12
        if 0 <= hour < 24 and 0 <= minute < 60:
            return hour, minute
    lower = words.lower()
    return next(((hour, 0) for name, hour in _PARTS.items() if re.search(rf"\b{name}\b", lower)), None)


def _number(word: str) -> int:
    return int(word) if word.isdigit() else _NUMBERS[word.lower()]


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None

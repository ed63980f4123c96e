"""Whether all is well, in words: is it accepting, is it keeping up, since when not, why, what to do, until when. Pure.

Several troubles: the worst one makes the headline, the others follow as one line each. The sentences say the same on
the page, in `callspool status` and in `callspool top`.
"""

import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from gateway.formatting import age_text, bytes_text, count_text, counted
from gateway.operations.schemas import Answer, Cause, DestinationReport, LaneStatus, Pace, Status, Verdict
from gateway.runbooks import Runbook
from spool.records import Lane

CORE_SECONDS = 60.0
"""Cores that wait longer are behind; a dashboard shows a call while it is still talked about."""
DETAIL_SECONDS = 600.0
MOST_NAMED = 3600.0 * 24 * 30
"""Room for longer than this is as good as for ever."""


class _Advice(NamedTuple):
    sign: str
    why: str
    """`{0}` is the destination, `{1}` its reason."""
    todo: tuple[str, ...]
    command: str


_S3_CHECK = "callspool s3 check --destination {0}"
_BUCKET_ADVICE = (
    _Advice(
        r"AccessDenied|\b403\b.*(?:S3|object|bucket)|not authorized to perform",
        "The bucket of {0} refuses what the gateway writes: {1}.",
        (
            "Allow `s3:PutObject` on the prefix of {0} to the gateway's role; a bucket policy may forbid it.",
            "Prove it: `callspool s3 check` names the permission that is missing.",
        ),
        _S3_CHECK,
    ),
    _Advice(
        r"NoSuchBucket|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidBucketName|credentials",
        "{0} rejects the gateway's bucket or credentials: {1}.",
        ("Correct bucket, region or credentials of {0}.", "Prove it: `callspool s3 check`."),
        _S3_CHECK,
    ),
)
_ADVICE = (
    _Advice(
        r"\bHTTP (?:401|403)\b",
        "{0} does not accept the key that the gateway presents: {1}.",
        ("Correct the token of {0} in the settings, or at the endpoint, then reload with `callspool reload`.",),
        "callspool check-config",
    ),
    _Advice(
        r"\bHTTP 4\d\d\b",
        "{0} refuses everything that is sent to it: {1}.",
        ("Check the address of {0}: it may belong to something else.", "Fix what the response reports there."),
        "callspool check-config",
    ),
    _Advice(
        r"\bHTTP 5\d\d\b|overload|SlowDown|ServiceUnavailable",
        "{0} answers, and fails: {1}.",
        ("Look at the logs of {0}: the server, or something behind it, is failing.",),
        "callspool deliveries list --destination {0}",
    ),
    _Advice(
        r"resolve|name or service|getaddrinfo|nodename",
        "The name of {0} cannot be resolved: {1}.",
        ("Check the name in the address of {0}, and the DNS of this machine.",),
        "callspool check-config",
    ),
    _Advice(
        r"certificate|TLS|SSL",
        "The TLS connection to {0} fails: {1}.",
        ("Check the certificate of {0}, and `ca_file` where its authority is your own.",),
        "callspool check-config",
    ),
    _Advice(
        r"refused|unreachable|reset|timed? ?out|timeout|connect|no answer|closed",
        "{0} cannot be reached: {1}.",
        ("Check that {0} runs and listens, and that this machine may reach it: firewall, proxy, network policy.",),
        "callspool check-config",
    ),
)
_OTHER = _Advice("", "{0} accepts no deliveries: {1}.", ("Fix what the reason names.",), "callspool status")


class _Trouble(NamedTuple):
    rank: int
    """The lower the worse."""
    headline: str
    strip: str
    cause: Cause


def verdict_of(status: Status, pace: Pace) -> Verdict:
    """What a person should know first of this status."""
    troubles = sorted(_troubles(status, pace), key=lambda trouble: trouble.rank)
    answers = (_accepting(status, pace), _keeping_up(status, pace, Lane.CORE), _keeping_up(status, pace, Lane.DETAIL))
    level = "good" if not troubles else "bad" if troubles[0].rank < _DEAD_LETTERS else "warn"
    headline = troubles[0].headline if troubles else _calm(status)
    if troubles and _FULL < troubles[0].rank <= _BEHIND and status.ready:
        headline = f"Calls are accepted. {headline}"
    return Verdict(
        level=level,
        headline=headline,
        answers=answers,
        cause=troubles[0].cause if troubles else None,
        others=tuple(trouble.headline for trouble in troubles[1:]),
        strip=troubles[0].strip if troubles and level == "bad" else "",
    )


def cause_of(one: DestinationReport, status: Status, pace: Pace) -> Cause | None:
    """Why a destination is not well, and what to do; None while it is."""
    trouble = next(_of_destination(one, status, pace), None)
    return None if trouble is None else trouble.cause


_NOT_ACCEPTING, _FULL, _UNACCOUNTED, _CORES, _DETAILS, _BEHIND, _DEAD_LETTERS, _ATTENTION = range(8)


def _calm(status: Status) -> str:
    lanes = [lane for each in status.destinations for lane in each.lanes]
    if not any(lane.delivered or lane.queued or lane.dead or lane.expired or lane.discarded for lane in lanes):
        return "Ready. Nothing was posted yet."
    waiting = sum(lane.queued for lane in lanes)
    return "Calls are accepted and delivered." if waiting else "Calls are accepted, and everything is delivered."


def _troubles(status: Status, pace: Pace) -> Iterator[_Trouble]:
    if not status.ready:
        yield _not_accepting(status)
    elif _full_of_details(status):
        yield _refuses_large()
    if status.spool is not None and status.spool.unaccounted:
        count = status.spool.unaccounted
        why = f"{_deliveries(count)} owed that are neither queued nor ended, by independent counts."
        todo = ("Keep a copy of the spool's directory.", "Run `callspool fsck`, and report this as a bug.")
        cause = _cause(why, Runbook.UNACCOUNTED, todo=todo, command="callspool fsck")
        yield _Trouble(_UNACCOUNTED, f"{_deliveries(count)} unaccounted for.", "deliveries are missing", cause)
    for one in status.destinations:
        yield from _of_destination(one, status, pace)
    dead = sum(one.dead for one in status.destinations)
    if dead:
        yield _dead_letters(status, dead)
    for note in status.attention:
        yield _Trouble(
            _ATTENTION,
            f"{note[:1].upper()}{note[1:]}.",
            "",
            _cause(note, Runbook.QUARANTINE, todo=("Do what it says.",)),
        )


def _of_destination(one: DestinationReport, status: Status, pace: Pace) -> Iterator[_Trouble]:
    if one.configured and not one.up:
        yield _down(one, status, pace)
    elif one.refused_tokens:
        yield _refused_tokens(one, pace)
    elif not one.configured and any(lane.queued for lane in one.lanes):
        yield _forgotten(one)
    else:
        yield from _behind(one, pace)


def _cause(why: str, runbook: str, *, tried: str = "", todo: tuple[str, ...] = (), command: str = "",
           resume: str | None = None, until: str = "", then: str = "") -> Cause:  # fmt: skip
    return Cause(
        why=why, tried=tried, todo=todo, command=command, resume=resume, until=until, then=then, runbook=runbook
    )


def _not_accepting(status: Status) -> _Trouble:
    reason = "; ".join(status.reasons) or f"the gateway is {status.phase}"
    if status.phase != "running":
        todo: tuple[str, ...] = ("Wait: this page says when it is ready.",)
    elif re.search(r"\bfull\b|no room|no space", reason, re.IGNORECASE):
        todo = (
            "Free space on the volume, or let deliveries continue: delivered call logs leave the spool.",
            "Raise `spool.max_bytes` (CALLSPOOL_SPOOL_MAX_BYTES) where the volume has room.",
        )
    else:
        todo = ("Look into the log of the gateway.", "Check volume and rights with `callspool fsck`.")
    cause = _cause(
        f"{reason[:1].upper()}{reason[1:]}.", status.runbook or Runbook.POSTS_REFUSED, todo=todo,
        command="callspool status",
        until="Agents are answered 503 or 507 with Retry-After.",
        then="The SDK keeps failed posts in its outbox and retries them; accepted call logs are safe.",
    )  # fmt: skip
    return _Trouble(_NOT_ACCEPTING, f"Calls are not accepted: {reason}.", "calls are not accepted", cause)


def _full_of_details(status: Status) -> bool:
    return status.spool is not None and status.spool.full_of_details


def _refuses_large() -> _Trouble:
    cause = _cause(
        "The spool is full but for its reserve, which is kept for small call logs and for cores.",
        Runbook.SPOOL_FULL,
        todo=(
            "Let details be delivered: the causes are listed below.",
            "Raise `spool.max_bytes` (CALLSPOOL_SPOOL_MAX_BYTES) where the volume has room.",
            "Or move details: `callspool deliveries reroute --to NAME --form detail --all`.",
        ),
        command="callspool status",
        until="Large call logs are answered 507 with Retry-After. Small ones are accepted.",
        then="The SDK keeps failed posts in its outbox and retries them; accepted call logs are safe.",
    )
    return _Trouble(_FULL, "Large call logs are refused: the spool is full.", "large call logs are refused", cause)


def _down(one: DestinationReport, status: Status, pace: Pace) -> _Trouble:
    core, detail = one.lanes
    reason = re.sub(r"^paused: | \([^()]*\)$", "", one.reason.rstrip("."))
    known = (*_BUCKET_ADVICE, *_ADVICE) if one.type == "s3" else _ADVICE
    advice = next((each for each in known if re.search(each.sign, reason, re.IGNORECASE)), _OTHER)
    since = _seconds_since(one, status.now)
    for_how_long = _words(since) if since is not None else "some time"
    cores = core.pending > 0 or (detail.pending == 0 and (core.delivered > 0 or detail.delivered == 0))
    what = "Cores" if cores else "Details"
    waiting = core.pending + detail.pending
    others = [each.name for each in status.destinations if each.configured and each.up]
    up = f" {_listed(others)} {'is' if len(others) == 1 else 'are'} up." if others else ""
    tried = f"Next try {{{one.retry_at}}}.{up}" if one.retry_at else up.strip()
    many = f"{count_text(waiting)} {'delivery waits' if waiting == 1 else 'deliveries wait'} on disk"
    waits = many if waiting else "nothing waits"
    return _Trouble(
        _CORES if cores else _DETAILS,
        f"{what} have not reached {one.name} for {for_how_long}.",
        f"{one.name} is down: {waits}, nothing is lost",
        _cause(
            advice.why.format(f"`{one.name}`", reason),
            Runbook.DESTINATION_DOWN,
            tried=tried,
            todo=(*(step.format(one.name) for step in advice.todo), "Try at once, or wait for the next try."),
            command=advice.command.format(one.name),
            resume=one.name,
            **_until(pace, _again(pace, one.name, waiting)),
        ),
    )


def _refused_tokens(one: DestinationReport, pace: Pace) -> _Trouble:
    held = sum(lane.held for lane in one.lanes)
    count = one.refused_tokens
    return _Trouble(
        _CORES,
        f"{one.name} refuses {count} agent token{'' if count == 1 else 's'}; {_deliveries(held)} held.",
        f"{one.name} refuses agent tokens: {_deliveries(held)} held",
        _cause(
            f"`{one.name}` answers 401 or 403 for {count} of the agents' keys; deliveries of other agents continue.",
            Runbook.TOKENS_REFUSED,
            todo=(
                f"See whose they are: `callspool deliveries list --destination {one.name} --state held`.",
                "Give them a valid key with `callspool deliveries replace-token`, or allow the key at the endpoint.",
                "One delivery for each key is retried automatically; try at once after correcting the key.",
            ),
            command=f"callspool deliveries list --destination {one.name} --state held",
            resume=one.name,
            **_until(pace),
        ),
    )


def _forgotten(one: DestinationReport) -> _Trouble:
    waiting = sum(lane.queued for lane in one.lanes)
    quoted = shlex.quote(one.name)  # it may be that of an adopted database
    return _Trouble(
        _DETAILS,
        f"{_deliveries(waiting)} owed to {one.name}, which the configuration no longer has.",
        f"{one.name} is not configured: {_deliveries(waiting)} held",
        _cause(
            f"`{one.name}` was removed from the settings while it still had deliveries.",
            Runbook.NOT_CONFIGURED,
            todo=(
                f"Add {one.name} again,",
                f"or move them: `callspool deliveries reroute --destination {quoted} --to NAME`.",
            ),
            command=f"callspool deliveries list --destination {quoted}",
            until="Nothing is lost. They are kept until somebody decides.",
        ),
    )


def _behind(one: DestinationReport, pace: Pace) -> Iterator[_Trouble]:
    for lane in one.lanes:
        if _keeps_up(one.name, lane, pace):
            continue
        name = lane.lane.capitalize()
        yield _Trouble(
            _BEHIND,
            f"{name}s for {one.name} are behind by {_words(lane.oldest_ready_seconds or 0)}.",
            f"{lane.lane}s for {one.name} are behind",
            _cause(
                f"`{one.name}` accepts deliveries more slowly than they arrive.",
                Runbook.BACKLOG,
                todo=(
                    f"Compare its response times with `callspool_delivery_seconds` of {one.name}.",
                    f"Raise `concurrency` of {one.name} where it can handle more.",
                ),
                command=f"callspool deliveries list --destination {one.name}",
                **_until(pace),
            ),
        )


def _dead_letters(status: Status, dead: int) -> _Trouble:
    reasons = sorted(
        (reason for one in status.destinations for reason in one.dead_reasons), key=lambda reason: -reason.count
    )
    why = f"The most frequent reason: {reasons[0].example}." if reasons else "Their reasons are being counted."
    return _Trouble(
        _DEAD_LETTERS,
        f"{counted(dead, 'dead letter waits', 'dead letters wait')} for a decision.",
        "",
        _cause(
            why,
            Runbook.DEAD_LETTERS,
            todo=((reasons[0].advice,) if reasons else ()) + ("Replay, reroute or discard them under Dead letters.",),
            command="callspool dead list",
            until="Nothing is lost. They are kept until somebody decides.",
        ),
    )


def _again(pace: Pace, name: str, waiting: int) -> str:
    """How long a destination that is down will need when it is back."""
    if not pace.best_per_minute or not waiting:
        return ""
    return f"Once {name} is back, it takes about {_words(waiting / pace.best_per_minute * 60)} to catch up."


def _until(pace: Pace, again: str = "") -> dict[str, str]:
    if pace.full_in_seconds is None or pace.full_in_seconds > MOST_NAMED:
        until = "Nothing is lost. The backlog is on disk, and at this rate there is room for it."
        return {"until": until, "then": again}
    until = f"Nothing is lost. The backlog is on disk. At this rate there is room for {_words(pace.full_in_seconds)}."
    then = f"Then large calls are answered 507; the reserve keeps small ones and cores going. {again}"
    return {"until": until, "then": then.strip()}


def _accepting(status: Status, pace: Pace) -> Answer:
    if not status.ready:
        return Answer("bad", "Accepting: no", "; ".join(status.reasons) or status.phase)
    if _full_of_details(status):
        return Answer("bad", "Accepting: small call logs only", "the spool is full; large ones are answered 507")
    rate = pace.accepted_per_minute
    told = (
        "no sample yet"
        if rate is None
        else f"{rate:.0f} call logs a minute"
        if rate >= 1
        else "hardly any at the moment"
    )
    fast = "" if pace.ack_p99_seconds is None else f"; 99 % acknowledged within {_short(pace.ack_p99_seconds)}"
    return Answer("good", "Accepting: yes", f"{told}{fast}")


def _keeping_up(status: Status, pace: Pace, lane: Lane) -> Answer:
    name = "Cores" if lane is Lane.CORE else "Details"
    lanes = [(each, one) for each in status.destinations for one in each.lanes if one.lane == lane.value]
    waiting = sum(one.pending for _, one in lanes)
    oldest = max((one.pending_seconds or 0 for _, one in lanes), default=0)
    stuck = [
        each
        for each, one in lanes
        if (one.pending > one.held and each.configured and not each.up)
        or (one.ready and not _keeps_up(each.name, one, pace))
    ]
    held = sum(one.held for _, one in lanes)
    if waiting == held:
        slow = pace.core_p95_seconds if lane is Lane.CORE else None
        after = f"; {count_text(held)} held" if held else ""
        after += f"; delivered within {_short(slow)} (95 %)" if slow is not None else ""
        return Answer("good", f"{name} keep up: yes", f"none waits{after}")
    told = f"{count_text(waiting)} {'waits' if waiting == 1 else 'wait'}"
    told += f", the oldest for {age_text(oldest)}" if oldest >= 1 else ""
    if stuck:
        since = stuck[0].since
        return Answer("bad", f"{name} keep up: no" + (f", since {{{since}}}" if since else ""), told)
    return Answer("good", f"{name} keep up: yes", told)


def _keeps_up(destination: str, lane: LaneStatus, pace: Pace) -> bool:
    """Whether nothing waits for long, or ever less does."""
    limit = CORE_SECONDS if lane.lane == Lane.CORE.value else DETAIL_SECONDS
    return (lane.oldest_ready_seconds or 0) < limit or lane.lane in pace.shrinking.get(destination, ())


def _seconds_since(one: DestinationReport, now: str) -> float | None:
    return (
        None if one.since is None else (datetime.fromisoformat(now) - datetime.fromisoformat(one.since)).total_seconds()
    )


def _words(seconds: float) -> str:
    """`38 minutes`, `10 h 8 min`."""
    if 60 <= seconds < 3600:
        minutes = int(seconds // 60)
        return f"{minutes} minute{'' if minutes == 1 else 's'}"
    if seconds < 60:
        whole = max(1, int(seconds))
        return f"{whole} second{'' if whole == 1 else 's'}"
    return age_text(seconds)


def _deliveries(count: int) -> str:
    return f"{count_text(count)} {'delivery is' if count == 1 else 'deliveries are'}"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _listed(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def room_text(pace: Pace) -> str:
    """How fast the spool grows: `15.7 MB a minute`."""
    grows = pace.growth_bytes_per_minute
    if grows is None:
        return "not known yet"
    return f"{bytes_text(round(grows))} a minute" if grows >= 1000 else "nothing"

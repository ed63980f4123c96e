"""The statements of the ClickHouse store. Times are milliseconds since the Unix epoch; 0 stands for none."""

from collections.abc import Mapping
from typing import Final

from uploaders.stores.completion import CallState, CompletionRule, error_of
from uploaders.stores.parts import PartKind

_NEVER: Final = (1 << 63) - 1
"""What `calls_merged` has where no part of a kind was received."""
OF_KEYS: Final = "project IN %(projects)s AND call_id IN %(call_ids)s"
"""These calls, and perhaps others of the same ids: pairs would be the exact condition, and are read far more slowly."""
OF_DAY: Final = "received_at >= %(begin)s AND received_at < %(end)s"

ROW_COLUMNS: Final = (
    "project, call_id, state, late, start_digest, start_head, end_digest, end_head, detail_digest, self_contained, "
    "conflicts, first_part_at, due_at, completed_at, error, version"
)
_AGENT, _NUMBER = (
    f"if(JSONExtractString(end_head, '{name}') != '', JSONExtractString(end_head, '{name}'), "
    f"JSONExtractString(start_head, '{name}'))"
    for name in ("agent_id", "customer_number")
)
_LISTED: Final = (
    "multiIf(JSONHas(end_head, 'started_at'), JSONExtractInt(end_head, 'started_at'), "
    "JSONHas(start_head, 'started_at'), JSONExtractInt(start_head, 'started_at'), first_part_at)"
)


def rows(where: str, rule: CompletionRule) -> str:
    """The rows of the calls for which `where` is true, made of `calls_merged`: `completion.merge` in SQL.

    `late` of a row that was given up before stays. The parameter `now` says what has waited too long.
    """
    # A level for each step: an alias that refers to aliases of its own level is worked out again for each use, and the
    # statement then takes a second to be analysed.
    parts = f"""
SELECT m.project AS project, m.call_id AS call_id, max(m.start_part) AS start_part, max(m.end_part) AS end_part,
    max(m.detail_part) AS detail_part, min(m.start_received) AS start_received, min(m.end_received) AS end_received,
    min(m.call_received) AS call_received, min(m.first_part_at) AS first_part_at,
    groupUniqArrayArray(m.parts) AS parts
FROM calls_merged m WHERE {where} GROUP BY m.project, m.call_id"""
    columns = f"""
SELECT project, call_id, start_part.2 AS start_digest, start_part.3 AS start_head, end_part.2 AS end_digest,
    end_part.3 AS end_head, detail_part.2 AS detail_digest, start_received, end_received, call_received, first_part_at,
    length(parts) AS count, arrayCount(part -> part.1 = {PartKind.START:d}, parts) AS starts,
    arrayCount(part -> part.1 IN ({PartKind.END:d}, {PartKind.CALL:d}), parts) AS ends,
    call_received < {_NEVER} AS whole
FROM ({parts})"""
    facts = f"""
SELECT *, multiIf(whole OR (starts > 0 AND ends > 0), {CallState.COMPLETE:d}, ends > 0, {CallState.ENDED:d},
                  starts > 0, {CallState.OPEN:d}, {CallState.PENDING:d}) AS facts
FROM ({columns})"""
    due = f"""
SELECT *, multiIf(facts = {CallState.COMPLETE:d}, {_NEVER}, facts = {CallState.ENDED:d}, end_received + {rule.timeout},
                  facts = {CallState.OPEN:d}, start_received + {rule.open_timeout},
                  first_part_at + {rule.open_timeout}) AS due
FROM ({facts})"""
    states = f"""
SELECT *, toUInt8(multiIf(due > %(now)s, facts, facts = {CallState.ENDED:d}, {CallState.ORPHAN:d},
                          {CallState.TIMED_OUT:d})) AS state
FROM ({due})"""
    return f"""
SELECT new.project AS project, new.call_id AS call_id, new.state AS state,
    (old.late OR (old.state IN ({CallState.TIMED_OUT:d}, {CallState.ORPHAN:d}) AND old.state != new.state)
     OR (NOT new.whole AND new.starts > 0 AND new.ends > 0
         AND (new.end_received - new.start_received > {rule.open_timeout}
              OR new.start_received - new.end_received > {rule.timeout}))) AS late,
    new.start_digest AS start_digest, new.start_head AS start_head, new.end_digest AS end_digest,
    new.end_head AS end_head, new.detail_digest AS detail_digest, new.whole AS self_contained,
    toUInt32(greatest(new.starts - 1, 0) + greatest(new.ends - 1, 0)) AS conflicts,
    new.first_part_at AS first_part_at, if(new.due > %(now)s AND new.due < {_NEVER}, new.due, 0) AS due_at,
    if(new.facts != {CallState.COMPLETE:d}, 0,
       least(new.call_received, if(new.starts > 0 AND new.ends > 0,
                                   greatest(new.start_received, new.end_received), {_NEVER}))) AS completed_at,
    multiIf(new.due > %(now)s, '', new.facts = {CallState.PENDING:d}, '{error_of(CallState.PENDING)}',
            new.facts = {CallState.OPEN:d}, '{error_of(CallState.OPEN)}', '{error_of(CallState.ENDED)}') AS error,
    new.count * 8 + (new.due <= %(now)s) AS version
FROM ({states}) AS new
LEFT JOIN (SELECT project, call_id, state, late FROM calls_complete FINAL WHERE {where}) AS old
    ON old.project = new.project AND old.call_id = new.call_id"""


def merged_calls(where: str, rule: CompletionRule) -> str:
    """The same rows with the columns that lists are filtered and sorted by."""
    listed = f"{_AGENT} AS agent_id, {_NUMBER} AS customer_number, {_LISTED} AS listed_at"
    return f"SELECT *, {listed} FROM ({rows(where, rule)})"


def put_rows(where: str, rule: CompletionRule) -> str:
    """Write the rows of these calls anew: whoever knows fewer parts does not win."""
    return f"INSERT INTO calls_complete ({ROW_COLUMNS}) SELECT {ROW_COLUMNS} FROM ({rows(where, rule)})"


SUMMARY: Final = (
    "SELECT project, call_id, state, late, start_head, end_head, first_part_at, completed_at, error, conflicts, "
    "listed_at, start_digest, end_digest, detail_digest FROM {} WHERE {}"
)
BYTES: Final[Mapping[str, str | dict[str, str]]] = dict.fromkeys(
    ("digest", "start_digest", "end_digest", "detail_digest", "core", "frame"), "bytes"
)
"""Columns that hold bytes, not text."""
_OF_CALLS: Final = "project = %(project)s AND call_id IN %(call_ids)s"
OLD_CALLS: Final = (
    "SELECT project, call_id FROM call_parts WHERE {} GROUP BY project, call_id "
    "HAVING max(received_at) < %(before)s ORDER BY project, call_id LIMIT %(limit)s"
)
NUMBERS: Final = (
    "SELECT DISTINCT project, call_id, JSONExtractString(head, 'customer_number') AS number FROM call_parts "
    "WHERE number LIKE %(like)s AND number != ''"
)
FIND_CALLS: Final = (
    "SELECT project, call_id FROM call_parts WHERE call_id IN %(call_ids)s "
    "UNION DISTINCT SELECT project, call_id FROM call_details WHERE call_id IN %(call_ids)s "
    "UNION DISTINCT SELECT project, call_id FROM completions WHERE call_id IN %(call_ids)s"
)
"""Also those of which no part is there: frames of a detail that never got its part, or what is to be announced."""
CALLS_OF_AGENT: Final = (
    "SELECT DISTINCT project, call_id FROM call_parts WHERE JSONExtractString(head, 'agent_id') = %(agent_id)s"
)
COUNT_PARTS: Final = f"SELECT count() FROM call_parts FINAL WHERE {_OF_CALLS}"
ERASE: Final = (
    f"ALTER TABLE call_details DELETE WHERE ({_OF_CALLS}) OR detail_id IN "
    f"(SELECT detail_id FROM call_parts WHERE {_OF_CALLS} AND detail_id != '') SETTINGS mutations_sync = 1",
    *(
        f"ALTER TABLE {table} DELETE WHERE {_OF_CALLS} SETTINGS mutations_sync = 1"
        for table in ("spans", "detail_documents", "calls_merged", "calls_complete", "completions", "call_parts")
    ),
)
"""Deletes calls: whole parts of tables are written anew without it. Each table goes after what a sweep, a repair or a
backfill makes it of, so that none meanwhile brings anything back."""
KNOWN: Final = f"SELECT project, call_id, kind, digest FROM call_parts WHERE {OF_KEYS}"
STATES_OF: Final = f"SELECT project, call_id, state, late, first_part_at FROM calls_complete FINAL WHERE {OF_KEYS}"
PUT_COMPLETIONS: Final = f"""
INSERT INTO completions (project, call_id, completed_at)
SELECT project, call_id, completed_at FROM calls_complete FINAL
WHERE {OF_KEYS} AND state = {CallState.COMPLETE:d} AND completed_at >= %(since)s
    AND (project, call_id) NOT IN (SELECT project, call_id FROM completions WHERE {OF_KEYS})
"""
"""Of these calls those that are complete and in no outbox yet, also where a writer died before it came to this."""
CLAIMABLE: Final = """
SELECT project, call_id, claimed_by FROM completions FINAL
WHERE NOT told AND (claimed_by IN ('', %(owner)s) OR claimed_at <= %(silent)s)
ORDER BY claimed_by != %(owner)s, completed_at, project, call_id LIMIT %(limit)s
"""
CLAIM: Final = f"""
INSERT INTO completions (project, call_id, completed_at, claimed_by, claimed_at, told, version)
SELECT project, call_id, completed_at, %(owner)s, %(now)s, false, version + 1 FROM completions FINAL
WHERE {OF_KEYS} AND NOT told AND (claimed_by = '' OR claimed_at <= %(silent)s)
"""
"""Made of the rows that are there, as `FORGET` is: what was erased since they were read is not written again."""
CLAIMED: Final = (
    f"SELECT project, call_id FROM completions FINAL WHERE {OF_KEYS} AND claimed_by = %(owner)s AND NOT told"
)
FORGET: Final = f"""
INSERT INTO completions (project, call_id, completed_at, claimed_by, claimed_at, told, version)
SELECT project, call_id, completed_at, '', %(now)s, true, %(told)s FROM completions FINAL
WHERE {OF_KEYS} AND (project, call_id) IN %(keys)s AND NOT told
"""
PARTS: Final = (
    "SELECT kind, event, digest, accepted_at, source_uid, core FROM call_parts FINAL "
    "WHERE project = %(project)s AND call_id = %(call_id)s ORDER BY accepted_at, kind, digest"
)
DETAILS: Final = (
    "SELECT detail_id, digest, accepted_at FROM call_parts FINAL WHERE project = %(project)s AND call_id = %(call_id)s "
    f"AND kind = {PartKind.DETAIL:d} ORDER BY accepted_at DESC, digest DESC"
)
"""Those of a call: the first one is shown."""
NEXT_FRAME: Final = (
    "SELECT seq, frame FROM call_details WHERE detail_id = %(detail_id)s AND seq > %(seq)s ORDER BY seq LIMIT 1"
)
OF_DETAILS: Final = "project = %(project)s AND call_id = %(call_id)s AND lower(hex(digest)) IN %(digests)s"

DUE: Final = (
    "SELECT project, call_id FROM calls_complete FINAL WHERE due_at > 0 AND due_at <= %(now)s "
    "ORDER BY due_at LIMIT %(limit)s"
)
WAITING: Final = "SELECT count() FROM calls_complete FINAL WHERE due_at > 0"
_RECENT: Final = "(project, call_id) IN (SELECT project, call_id FROM call_parts WHERE received_at >= %(since)s)"
BEHIND: Final = f"""
SELECT parts.project, parts.call_id FROM (
    SELECT project, call_id, uniqExact(kind, digest) AS count FROM call_parts
    WHERE {_RECENT} GROUP BY project, call_id
) AS parts LEFT JOIN (
    SELECT project, call_id, intDiv(max(version), 8) AS count FROM calls_complete
    WHERE {_RECENT} GROUP BY project, call_id
) AS rows ON rows.project = parts.project AND rows.call_id = parts.call_id
WHERE rows.count < parts.count LIMIT %(limit)s
"""
"""Calls whose rows lack parts that were received since then: a writer died in between."""
ABANDONED: Final = f"""
SELECT DISTINCT detail_id, project, call_id, lower(hex(digest)) FROM call_details WHERE staged_at <= %(before)s
    AND detail_id NOT IN (SELECT detail_id FROM call_parts WHERE kind = {PartKind.DETAIL:d}) LIMIT 100
"""
CLEAR: Final = (
    *(
        f"DELETE FROM {table} WHERE {OF_DETAILS} AND (project, call_id, digest) NOT IN "
        f"(SELECT project, call_id, digest FROM call_parts WHERE {OF_DETAILS})"
        for table in ("spans", "detail_documents")
    ),
    "DELETE FROM call_details WHERE detail_id = %(detail_id)s",
)
"""Deletes what there is of an abandoned detail; spans and document stay where the same one has come since. The frames
go last: they name the rest."""

_DAY_CALLS: Final = f"SELECT DISTINCT project, call_id FROM call_parts WHERE {OF_DAY}"
PAGE: Final = (
    f"{_DAY_CALLS} AND (%(first)s OR (project, call_id) > (%(project)s, %(call_id)s)) "
    "ORDER BY project, call_id LIMIT %(rows)s"
)
PAGE_END: Final = f"SELECT count(), max((project, call_id)) FROM ({PAGE})"
RIGHT: Final = """
SELECT count() FROM (
    SELECT project, call_id, max(start_part).2 AS s, max(end_part).2 AS e, max(detail_part).2 AS d
    FROM calls_merged WHERE (project, call_id) IN ({calls}) GROUP BY project, call_id
) AS m INNER JOIN (
    SELECT project, call_id, start_digest, end_digest, detail_digest FROM calls_complete FINAL
    WHERE (project, call_id) IN ({calls})
) AS c ON c.project = m.project AND c.call_id = m.call_id
WHERE c.start_digest = m.s AND c.end_digest = m.e AND c.detail_digest = m.d
"""
"""How many calls have a row that shows what their parts say."""
RIGHT_OF_PAGE: Final = RIGHT.format(calls=PAGE)
RIGHT_OF_DAY: Final = RIGHT.format(calls=_DAY_CALLS)
CALLS_OF_DAY: Final = f"""
SELECT count(), countIf((project, call_id) IN (SELECT project, call_id FROM calls_complete)), countIf(end_only) FROM (
    SELECT project, call_id, max(end_part).2 != '' AND max(start_part).2 = '' AND min(call_received) = {_NEVER}
        AS end_only
    FROM calls_merged WHERE (project, call_id) IN ({_DAY_CALLS}) GROUP BY project, call_id
)
"""
OLDEST: Final = "SELECT count(), min(received_at) FROM call_parts"
PROGRESS: Final = (
    "SELECT day, status, calls, written, end_only, differing, updated_at, cursor_project, cursor_call_id, version "
    "FROM backfill_progress FINAL"
)
PAUSED: Final = "SELECT paused FROM backfill_control FINAL"

CHECKS: Final = {
    "parts without the row of their call": (
        "SELECT count() FROM call_parts FINAL "
        "WHERE (project, call_id) NOT IN (SELECT project, call_id FROM calls_complete)"
    ),
    "calls without any part": (
        "SELECT count() FROM calls_complete FINAL "
        "WHERE (project, call_id) NOT IN (SELECT project, call_id FROM call_parts)"
    ),
    **{
        f"calls whose {slot} is missing": (
            f"SELECT count() FROM calls_complete FINAL WHERE {slot}_digest != '' AND (project, call_id, {slot}_digest) "
            f"NOT IN (SELECT project, call_id, digest FROM call_parts WHERE kind IN ({kinds}))"
        )
        for slot, kinds in (
            ("start", f"{PartKind.START:d}"),
            ("end", f"{PartKind.END:d}, {PartKind.CALL:d}"),
            ("detail", f"{PartKind.DETAIL:d}"),
        )
    },
    "calls that are complete without a start and an end": (
        "SELECT count() FROM calls_complete FINAL WHERE completed_at > 0 AND end_digest = ''"
    ),
}
DETAIL_CHECKS: Final = {
    "details without frames": (
        f"SELECT count() FROM call_parts FINAL WHERE kind = {PartKind.DETAIL:d} "
        "AND detail_id NOT IN (SELECT detail_id FROM call_details)"
    )
}

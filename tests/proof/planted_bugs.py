"""Bugs that are planted on purpose, one at a time, into a copy of the code: the tests must notice each of them.

`python -m tests.proof.planted_bugs` plants them all and prints which test noticed which; `make prove` does the same.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from tests.proof.encryption_bugs import ENCRYPTION_BUGS
from tests.proof.privacy_bugs import PRIVACY_BUGS

ROOT = Path(__file__).parents[2]
NEEDED = ("bench", "config", "gateway", "spool", "tests", "uploaders", "pyproject.toml")
"""What lies in a copy."""


@dataclass(frozen=True)
class Bug:
    """In `file`, `right` (which stands there once) is replaced by `wrong`; one of the tests `noticed_by` must fail."""

    name: str
    file: str
    right: str
    wrong: str
    noticed_by: tuple[str, ...]


CLOCK_JUMPS = "tests/proof/test_clock_jumps.py"
PROVES = (CLOCK_JUMPS, "tests/system/test_hostile.py")
"""Parts of the long proof; of the other files, what is part of that is left out."""

BUGS = (
    *(Bug(*each) for each in ENCRYPTION_BUGS),
    *(Bug(*each) for each in PRIVACY_BUGS),
    Bug(
        "a paid answer is not written down",
        "uploaders/pipeline/runner.py",
        "            await self._tables.record(job, Step.SUMMARY, made, tokens=tokens)",
        "            pass",
        ("tests/pipeline/test_runner.py::test_an_unchanged_transcript_pays_nothing",),
    ),
    Bug(
        "a claim of another is taken",
        "uploaders/stores/pipeline_tables.py",
        "AND due_at <= :now AND claimed_until <= :now\n    ORDER BY",
        "AND due_at <= :now\n    ORDER BY",
        ("tests/pipeline/test_tables.py::test_a_claim_is_its_owners_until_its_lease_ends",),
    ),
    Bug(
        "a callback is fired before its time",
        "uploaders/stores/pipeline.py",
        "state = 'waiting' AND due_at <= :now AND (",
        "state = 'waiting' AND (",
        ("tests/pipeline/test_callbacks.py::test_a_callback_three_days_ahead_is_fired_at_its_time",),
    ),
    Bug(
        "offsets are committed before the write",
        "gateway/worker/consumer.py",
        "        self._writing = _Writing(batch,",
        "        self._owed |= batch.offsets\n        self._commit()\n        self._writing = _Writing(batch,",
        ("tests/worker/test_consumer.py::test_offsets_are_committed_after_the_write",),
    ),
    Bug(
        "offsets of lost partitions are committed",
        "gateway/worker/consumer.py",
        "            self._writing.batch.disown(places)\n",
        "            pass\n",
        ("tests/worker/test_consumer.py::test_lost_partitions_are_dropped_and_not_committed",),
    ),
    Bug(
        "a message counts as delivered when it is queued",
        "uploaders/kafka/producer.py",
        "report(Delivered() if error is None else self._outcome(error, message.topic))",
        "report(Delivered())",
        ("tests/kafka/test_uploader.py::test_whose_fault_an_error_is",),
    ),
    Bug(
        "a partition that was lost while it was paused stays paused",
        "gateway/worker/consumer.py",
        "(consumer.pause if self.figures.paused else consumer.resume)(partitions)",
        "pass",
        ("tests/worker/test_consumer.py::test_lost_partitions_are_dropped_and_not_committed",),
    ),
    Bug(
        "a tenant's token shows any tenant's calls",
        "gateway/admin/calls.py",
        "    return request[CALLER].tenant or request.query.get",
        "    return request.query.get",
        ("tests/system/test_tenants.py::test_fifty_tenants_with_the_same_call_ids_are_fifty_times_their_calls",),
    ),
    Bug(
        "turns are saved up while a tenant has nothing",
        "uploaders/dispatch/lane.py",
        "        return max(self._served[tenant], self._now_serving)\n",
        "        return self._served[tenant]\n",
        ("tests/uploaders/test_fairness.py",),
    ),
    Bug(
        "costly bodies are parsed in the order in which they came",
        "gateway/intake/turns.py",
        "bool(costly) and not (cheap and self._last_was_costly)",
        "bool(costly)",
        ("tests/intake/test_turns.py::test_what_is_costly_is_one_sender_among_two",),
    ),
    Bug(
        "memory is held for what was announced",
        "gateway/intake/body_reader.py",
        "return self._budget.waiting > 0 or clock.time() - began >= SLOW_SECONDS",
        "return False",
        ("tests/intake/test_slow_clients.py::test_a_slow_body_gives_its_memory_back_though_nobody_waits[uvloop]",),
    ),
    Bug(
        "top-level members are built without a limit",
        "gateway/calllog/toplevel.py",
        "if most is not None and met > most:",
        "if False:",
        ("tests/intake/test_shapes.py::test_members_are_counted_while_they_are_built",),
    ),
    Bug(
        "upload addresses fill the spool",
        "spool/queue/uploads.py",
        "while len(self._senders) > MOST or (self._bytes > limit and len(self._senders) > 1):",
        "while False:",
        ("tests/spool/test_uploads.py::test_addresses_take_a_small_part_of_the_quota",),
    ),
    Bug(
        "a reference to any bucket is followed",
        "gateway/references.py",
        "        if place.s3_bucket not in self._buckets:\n",
        "        if not place.s3_bucket:\n",
        ("tests/system/test_references.py::test_what_references_name_reaches_the_store",),
    ),
    Bug(
        "a reference to another tenant's object is followed",
        "gateway/tenants.py",
        "    return None if tenant is None else (tenant, UNASSIGNED)\n",
        "    return None\n",
        (
            "tests/system/test_references.py::test_a_reference_to_an_object_of_another_tenant_is_a_dead_letter",
            "tests/worker/test_claims.py::test_what_notices_refer_to_becomes_details",
        ),
    ),
    Bug(
        "a call that is complete already is announced again",
        "uploaders/stores/sqlite/store.py",
        "        if self._announces and completed:\n",
        "        completed = [row for row in rows.values() if row.end]\n        if self._announces:\n",
        ("tests/stores/test_outbox.py::test_a_call_is_in_the_outbox_once_it_is_complete",),
    ),
    Bug(
        "the own database is imported under another name",
        "spool/salvage/service.py",
        "        self._refuse_own(task.directory)\n",
        "",
        ("tests/spool/test_salvage.py",),
    ),
    Bug(
        "a directory can be removed though it changed while it was read",
        "spool/salvage/service.py",
        "importer.tally.unchanged = fingerprint(task.directory) == before",
        "importer.tally.unchanged = True",
        ("tests/spool/test_salvage.py",),
    ),
    Bug(
        "what has a time of its own is due with its destination",
        "spool/db/sql.py",
        "AND due_at > :now AND for_destination ",
        "AND due_at > :now ",
        ("tests/spool/test_queue_conformance.py",),
    ),
    Bug(
        "a commit into a log that was removed is acknowledged",
        "spool/db/writer.py",
        "            if not self.database.rescue():\n",
        "            if False:\n",
        ("tests/spool/test_writer.py",),
    ),
    Bug(
        "an end alone waits for ever",
        "uploaders/stores/completion.py",
        "CallState.ENDED: now + rule.timeout}.get(state)",
        "}.get(state)",
        ("tests/stores/test_completion.py",),
    ),
    Bug(
        "the part that was written last is shown, not the one accepted last",
        "uploaders/stores/completion.py",
        "shown.rank > present.rank",
        "True",
        ("tests/stores/test_completion.py",),
    ),
    Bug(
        "a part that the store has counts again",
        "uploaders/stores/sqlite/store.py",
        "[part for part in parts if self._insert(writing, part)]",
        "[part for part in parts if self._insert(writing, part) or True]",
        ("tests/stores/test_conformance.py::test_duplicates_change_nothing",),
    ),
    Bug(
        "PostgreSQL looks for the partner only among what is committed",
        "uploaders/stores/postgres/sql.py",
        "c.end_digest IS NOT NULL OR excluded.end_digest IS NOT NULL, c.self_contained",
        "excluded.end_digest IS NOT NULL, c.self_contained",
        ("tests/stores/test_conformance.py::test_two_writers_at_once_complete_every_call",),
    ),
    Bug(
        "the cursor of a backfill is outside of its page's transaction",
        "uploaders/stores/sqlite/rows.py",
        "        if page and not writing.change(_ADVANCE",
        "        if page:\n            writing.execute('COMMIT')\n            writing.execute('BEGIN IMMEDIATE')\n"
        "        if page and not writing.change(_ADVANCE",
        ("tests/gateway/test_backfill.py",),
    ),
    Bug(
        "a backfill leaves a row alone that lacks its start",
        "uploaders/stores/sqlite/rows.py",
        "if before is None or shown_parts(before) != shown_parts(after):",
        "if before is None:",
        ("tests/stores/test_dual_path.py",),
    ),
    Bug(
        "a range is answered half",
        "uploaders/stores/routing.py",
        "if flagged and covers(since, complete) else",
        "if flagged else",
        ("tests/stores/test_routing.py",),
    ),
    Bug(
        "a view of ClickHouse takes any end",
        "uploaders/stores/clickhouse/0001_calls.sql",
        "maxIf((accepted_at, digest, head), kind IN (2, 3)) AS end_part",
        "anyIf((accepted_at, digest, head), kind IN (2, 3)) AS end_part",
        ("tests/stores/test_clickhouse.py",),
    ),
    Bug(
        "in ClickHouse the row that was written last wins, not the one that knows more",
        "uploaders/stores/clickhouse/0001_calls.sql",
        "ENGINE = ReplacingMergeTree(version) ORDER BY (project, call_id)\n",
        "ENGINE = ReplacingMergeTree ORDER BY (project, call_id)\n",
        ("tests/stores/test_clickhouse.py",),
    ),
    Bug(
        "one refused part takes its batch along",
        "uploaders/stores/uploader.py",
        "        if len(parts) == 1:\n",
        "        if len(parts) >= 1:\n",
        ("tests/stores/test_uploader.py",),
    ),
    Bug(
        "a late start is superseded for stores too",
        "spool/queue/accept.py",
        "if not delivery.last_write_wins]",
        "if False]",
        ("tests/spool/test_accept.py",),
    ),
    Bug(
        "a Phase 2 body is split again",
        "gateway/intake/parse.py",
        "return StoredAs.DETAIL if document.event == DETAIL_EVENT else StoredAs.TWO_PHASE",
        "return StoredAs.TWO_PHASE",
        ("tests/intake/test_posts.py",),
    ),
    Bug(
        "details are evicted for bytes that were only announced",
        "gateway/intake/staging.py",
        "            if not await self._area.quota.can_make_staging_room(size):\n                raise\n",
        "            await self._area.quota.make_staging_room(size, 0)\n",
        ("tests/intake/test_eviction.py",),
    ),
    Bug(
        "details are evicted where that cannot suffice",
        "spool/queue/reclaim.py",
        "not await self.can_make_room(byte_count + rest, core=core)",
        "False",
        ("tests/spool/test_giving_up.py",),
    ),
    Bug(
        "an address is an identity",
        "gateway/admin/auth.py",
        "if not rule.local or self._tokens:",
        "if self._tokens:",
        ("tests/admin/test_access.py",),
    ),
    Bug(
        "a proxy is this machine",
        "gateway/admin/auth.py",
        "any(name in request.headers for name in _PROXY_HEADERS) or any(",
        "any(",
        ("tests/admin/test_access.py",),
    ),
    Bug(
        "a rebound name is served",
        "gateway/listeners.py",
        "        return BrowserFault.HOST\n",
        "        return None\n",
        ("tests/intake/test_hosts.py::test_a_browser_is_refused_at_every_way_in",),
    ),
    Bug(
        "what nobody reads of the log is kept in memory",
        "gateway/logs.py",
        "if self._queued + len(line) > self._queue_bytes and",
        "if False and",
        ("tests/gateway/test_log_writer.py",),
    ),
    Bug(
        "a refusal is final before there is evidence that the address works",
        "uploaders/dispatch/circuit_breaker.py",
        "            self._revival = self._streak_began\n",
        "            self._revival = None\n",
        ("tests/uploaders/test_outages.py",),
    ),
    Bug(
        "404 is final before another record was accepted",
        "uploaders/dispatch/policy.py",
        "if outcome.maybe_address and not address_works and spent <",
        "if False and spent <",
        ("tests/uploaders/test_outages.py",),
    ),
    Bug(
        "a restart forgets a streak of refusals",
        "uploaders/dispatch/circuit_breaker.py",
        "self._missed_before = min(saved.since, now), saved.probes > 0",
        "self._missed_before = None, False",
        ("tests/uploaders/test_outages.py",),
    ),
    Bug(
        "the time in which callspool was stopped counts as trying",
        "uploaders/dispatch/policy.py",
        "    return effort if elapsed < 0 else min(elapsed, effort)\n",
        "    return elapsed\n",
        (CLOCK_JUMPS,),
    ),
    Bug(
        "what a clock ahead has deferred waits until then",
        "spool/db/sql.py",
        "OR d.deferred_at > :horizon) ORDER",
        ") ORDER",
        (CLOCK_JUMPS,),
    ),
    Bug(
        "a lane does not notice that the clock was set back",
        "uploaders/dispatch/lane.py",
        "        if now < self._last_seen:\n",
        "        if False:\n",
        (CLOCK_JUMPS,),
    ),
    Bug(
        "a 2xx that reports a failure counts as delivered",
        "uploaders/http/confirmation.py",
        "    if (members and _failure(members)) or _FAILED_AT_END.search(answer.tail):\n",
        "    if False:\n",
        ("tests/uploaders/test_confirmation.py",),
    ),
    Bug(
        "what the gateway sent itself is accepted",
        "gateway/intake/routes.py",
        "        if self._own in gateways:\n",
        "        if False:\n",
        ("tests/intake/test_loops.py",),
    ),
    Bug(
        "a record forgets the gateways that it came through",
        "gateway/intake/accept.py",
        "                via=arrival.via,\n                trace_context=arrival",
        "                trace_context=arrival",
        ("tests/intake/test_loops.py",),
    ),
    Bug(
        "a call log is sent on without the gateways that it came through",
        "uploaders/http/uploader.py",
        'if record.via is None else f"{record.via}, 1.1 {own}"',
        "",
        ("tests/uploaders/test_http.py", "tests/s3/test_presigned.py"),
    ),
    Bug(
        "another gateway's copy of a call log is a duplicate",
        "spool/queue/accept.py",
        "if new.via is not None and not came_through(via, new.via):",
        "if False:",
        ("tests/intake/test_loops.py",),
    ),
    Bug(
        "a token that is no credential is cut out of a call log",
        "gateway/calllog/document.py",
        "        if token is not None:\n            slices",
        "        if True:\n            slices",
        ("tests/calllog/test_token.py",),
    ),
    Bug(
        "time-outs of clients run while the gateway is stopped",
        "gateway/intake/protocol.py",
        "min(self._loop.time() - self._ticked_at, 2 * _TICK_SECONDS)",
        "(self._loop.time() - self._ticked_at)",
        ("tests/system/test_paused.py", "tests/intake/test_stopped.py"),
    ),
    Bug(
        "a call log larger than the quota is asked for again",
        "gateway/intake/responses.py",
        "            if error.never_fits:\n",
        "            if False:\n",
        ("tests/intake/test_refusals.py",),
    ),
    Bug(
        "a post of somebody else is taken for a repetition",
        "spool/queue/accept.py",
        'asked = {"call_id": call_id, "principal": principal}',
        'asked = {"call_id": call_id, "principal": ""}',
        ("tests/spool/test_identity.py",),
    ),
    Bug(
        "a commit is not synced",
        "spool/db/connection.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = OFF",
        ("tests/spool/test_writer.py",),
    ),
    Bug(
        "a failed sync is trusted the next time",
        "spool/db/writer.py",
        "if distrusts_disk(cause):",
        "if False:",
        ("tests/spool/test_writer.py",),
    ),
    Bug(
        "an index of the log that the disk lost is trusted",
        "spool/db/wal.py",
        "self._mapped()[:BACKFILLED_AT] = bytes(BACKFILLED_AT)",
        "self._mapped()",
        ("tests/spool/test_checkpoints.py",),
    ),
    Bug(
        "posts are acknowledged before the commit",
        "spool/db/writer.py",
        "            transaction.commit()\n",
        "            self._call_on_loop(resolve, group)\n            transaction.commit()\n",
        ("tests/spool/test_writer.py", "tests/spool/test_crash.py"),
    ),
    Bug(
        "later call logs of a call overtake earlier ones",
        "spool/queue/ordering.py",
        "follows = state is DeliveryState.READY and",
        "follows = False and",
        ("tests/spool/test_order.py",),
    ),
    Bug(
        "a detail does not wait for its core",
        "spool/queue/ordering.py",
        "own_core = other.destination_id == one.destination_id and",
        "own_core = False and",
        ("tests/spool/test_order.py",),
    ),
    Bug(
        "a stored frame is not checked when it is read",
        "spool/payload/frames.py",
        "return crc32(frame) == checksum",
        "return checksum is not None",
        ("tests/spool/test_corruption.py",),
    ),
    Bug(
        "every attempt has an idempotency key of its own",
        "spool/records.py",
        'return f"{self.record.uid}-{self.form}"',
        'return f"{self.record.uid}-{self.form}-{self.attempts}"',
        ("tests/spool/test_accept.py", "tests/uploaders/test_http_network.py"),
    ),
    Bug(
        "details may take the reserve for cores",
        "spool/space.py",
        "self.limit_bytes - self.reserve_bytes\n        return self._occupied(used_bytes) + byte_count <= limit",
        "self.limit_bytes\n        return self._occupied(used_bytes) + byte_count <= limit",
        ("tests/spool/test_reserve.py",),
    ),
    Bug(
        "a file counts as delivered before it is synced",
        "uploaders/durable_file.py",
        "        os.fsync(self._opened.fileno())\n",
        "",
        ("tests/uploaders/test_file.py",),
    ),
    Bug(
        "a payload goes with the first delivery that ends",
        "spool/queue/settle.py",
        "    if _is_open(transaction, record.record_id):\n",
        "    if False:\n",
        ("tests/spool/test_queue.py",),
    ),
    Bug(
        "a connection that the server will close is used again",
        "uploaders/http/connection.py",
        "self._may_be_kept = self._parser.should_keep_alive()",
        "self._may_be_kept = True",
        ("tests/uploaders/test_connections.py",),
    ),
    Bug(
        "half an answer counts as one",
        "uploaders/http/connection.py",
        "and not self._in_headers and self._ends_with_connection",
        "and not self._in_headers",
        ("tests/uploaders/test_connections.py",),
    ),
    Bug(
        "a rollback journal beside an outbox is rolled back",
        "gateway/sdk_outbox/file.py",
        "fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)",
        "pass",
        ("tests/outbox/test_hostile.py",),
    ),
    Bug(
        "a trigger of an outbox runs",
        "gateway/sdk_outbox/file.py",
        "self._connection.set_authorizer(_authorized)",
        "pass",
        ("tests/outbox/test_hostile.py",),
    ),
    Bug(
        "one odd row stops its outbox",
        "gateway/sdk_outbox/file.py",
        'if kind not in {"text", "blob"}:',
        "if False:",
        ("tests/outbox/test_hostile.py",),
    ),
    Bug(
        "the reader of outboxes knows the gateway's secrets",
        "gateway/sdk_outbox/reader.py",
        "env=sandbox.environment(os.environ)",
        "env=None",
        ("tests/outbox/test_hostile.py",),
    ),
)


@contextmanager
def copy_of_the_code() -> Iterator[Path]:
    """Where bugs can be planted without anybody else meeting them."""
    with tempfile.TemporaryDirectory() as folder:
        for name in NEEDED:
            source, target = ROOT / name, Path(folder, name)
            if source.is_dir():
                # With what is compiled: it is valid, since the copies have the times of their originals.
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("results"))
            else:
                shutil.copy2(source, target)
        yield Path(folder)


def plant(bug: Bug, copy: Path) -> None:
    """Make the copy wrong. Raises `ValueError` where the code is no longer what the bug was made for."""
    file = copy / bug.file
    text = file.read_text("utf-8")
    if text.count(bug.right) != 1:
        raise ValueError(f"{bug.file} holds {bug.right!r} {text.count(bug.right)} times: adapt the bug {bug.name!r}")
    file.write_text(text.replace(bug.right, bug.wrong), "utf-8")


def failures(copy: Path, tests: tuple[str, ...]) -> list[str]:
    """The first test that fails in the copy; none if all is well. Raises `RuntimeError` where they could not run."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "-W", "default"]
    # Ahead of what is installed: the copy, for the processes that tests start too.
    environment = os.environ | {"PYTHONPATH": str(copy)}
    marks = ["-m", ""] if any(test.startswith(PROVES) for test in tests) else []
    run = subprocess.run(
        [*command, *marks, *tests], cwd=copy, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"the tests did not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return [line.split()[1] for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]


def noticed(bug: Bug) -> str | None:
    """Plant it; returns the test that noticed it."""
    with copy_of_the_code() as copy:
        plant(bug, copy)
        return next(iter(failures(copy, bug.noticed_by)), None)


def main() -> int:
    """Plant them all, one after the other."""
    table = Table("planted bug", Column("noticed by", overflow="fold"), title="Planted bugs")
    missed = 0
    for bug in BUGS:
        by = noticed(bug)
        missed += by is None
        table.add_row(bug.name, by or "[red]nobody[/]")
    Console().print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The runbooks: what to do, by symptom, and which of them a logged message or an error leads to."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Runbook(StrEnum):
    """A section of docs/runbooks.md; as text, where it is."""

    NO_START = "docs/runbooks.md#it-does-not-start"
    POSTS_REFUSED = "docs/runbooks.md#posts-are-refused"
    DESTINATION_DOWN = "docs/runbooks.md#a-destination-is-down"
    TOKENS_REFUSED = "docs/runbooks.md#tokens-are-refused"
    DEAD_LETTERS = "docs/runbooks.md#dead-letters"
    QUARANTINE = "docs/runbooks.md#a-database-is-in-quarantine"
    STORE = "docs/runbooks.md#a-store-is-slow-or-refuses"
    PATHS_DIFFER = "docs/runbooks.md#the-two-paths-of-a-store-differ"
    WORKER = "docs/runbooks.md#a-worker-lags-or-stops"
    PIPELINE = "docs/runbooks.md#calls-are-not-summarised"
    OUTBOX = "docs/runbooks.md#an-outbox-cannot-be-used"
    SPOOL_FULL = "docs/runbooks.md#the-spool-is-full"
    DISK_FULL = "docs/runbooks.md#the-disk-is-full"
    UNACCOUNTED = "docs/runbooks.md#deliveries-are-unaccounted-for"
    NOT_CONFIGURED = "docs/runbooks.md#a-destination-is-not-configured"
    SLOW_COMMITS = "docs/runbooks.md#commits-are-slow"
    BACKLOG = "docs/runbooks.md#the-backlog-grows"


RUNBOOK_OF: Final[Mapping[str, Runbook]] = {
    "cannot_run": Runbook.NO_START,
    "not_ready": Runbook.POSTS_REFUSED,
    "spool_refuses": Runbook.POSTS_REFUSED,
    "destination_down": Runbook.DESTINATION_DOWN,
    "credential_refused": Runbook.TOKENS_REFUSED,
    "dead_letter": Runbook.DEAD_LETTERS,
    "database_corrupt": Runbook.QUARANTINE,
    "database_quarantined": Runbook.QUARANTINE,
    "corrupt_payload": Runbook.QUARANTINE,
    "store_unavailable": Runbook.STORE,
    "announcements_wait": Runbook.STORE,
    "not_announced": Runbook.STORE,
    "paths_differ": Runbook.PATHS_DIFFER,
    "paths_not_compared": Runbook.PATHS_DIFFER,
    "partitions_paused": Runbook.WORKER,
    "partitions_lost": Runbook.WORKER,
    "message_dead": Runbook.WORKER,
    "cannot_go_on": Runbook.WORKER,
    "kafka_producer_failed": Runbook.DESTINATION_DOWN,
    "pipeline_waits": Runbook.PIPELINE,
    "call_not_processed": Runbook.PIPELINE,
    "callbacks_wait": Runbook.PIPELINE,
    "callback_not_fired": Runbook.PIPELINE,
    "outbox_not_taken": Runbook.OUTBOX,
    "outbox_waits": Runbook.OUTBOX,
    "outbox_row_refused": Runbook.OUTBOX,
    "maintenance_failed": Runbook.DISK_FULL,
    "no_gateway": Runbook.NO_START,
    "stopping": Runbook.POSTS_REFUSED,
    "memory_budget": Runbook.POSTS_REFUSED,
    "crowded": Runbook.POSTS_REFUSED,
    "spool_unavailable": Runbook.POSTS_REFUSED,
    "spool_full": Runbook.SPOOL_FULL,
    "larger_than_quota": Runbook.SPOOL_FULL,
    "disk_full": Runbook.DISK_FULL,
    "model_unavailable": Runbook.PIPELINE,
}
"""By the name of a logged message, or the code of an error that a listener or a command answers with.

What is not named here says itself what to do, or asks for nothing.
"""

"""What is asked of a pipeline through the admin API, and answered. Pure: the command line reads the same."""

import msgspec

from uploaders.stores.pipeline import Step


class SimilarOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which calls are wanted: those like a text, or like a call."""

    text: str | None = None
    call_id: str | None = None
    limit: int = 10
    project: str = ""


class SearchOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which calls are wanted: those with all of these words. Times as everywhere."""

    text: str = ""
    agent: str | None = None
    number: str | None = None
    since: str | float | None = None
    until: str | float | None = None
    limit: int = 10
    project: str = ""


class RedoOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which calls are to be worked on once more."""

    step: Step = Step.SUMMARY
    since: str | float | None = None
    project: str | None = None
    state: str | None = None
    source: str | None = None
    dry_run: bool = False


class CallbackOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The callback of this call."""

    call_id: str
    project: str = ""


class BlockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A number that nobody may call back; of all tenants, or of one."""

    number: str
    blocked: bool = True
    project: str = ""


class InsightEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that was found."""

    call_id: str
    score: float | msgspec.UnsetType = msgspec.UNSET
    """Cosine similarity, where that was asked for: 1 is the same."""
    summary: str | None = None
    summary_source: str | None = None
    sentiment: str | None = None
    agent_id: str | None = None
    customer_number: str | None = None
    started_at: str | None = None


class InsightList(msgspec.Struct, frozen=True):
    """The best, or the newest, first."""

    calls: tuple[InsightEntry, ...]


class PipelineDocument(msgspec.Struct, frozen=True):
    """A pipeline at one moment."""

    name: str
    jobs: dict[str, int]
    oldest_queued: str | None
    obstacle: str | None
    """Why nothing is worked on; null while something is."""
    summaries: dict[str, int]
    """How many came from where."""
    callbacks: dict[str, int]
    reasons: dict[str, int]


class RedoDone(msgspec.Struct, frozen=True):
    """What was queued once more, or would be."""

    calls: int
    paid_answers: int
    """Answers that are paid for, at most."""
    dry_run: bool


class CallbackEntry(msgspec.Struct, frozen=True):
    """A callback. Times are ISO 8601 in UTC."""

    call_id: str
    project: str
    due_at: str
    zone: str
    words: str
    number: str
    agent_id: str | None
    state: str
    reason: str | None
    fired_at: str | None
    record_id: str | None


class CallbackList(msgspec.Struct, frozen=True):
    """The next ones first."""

    callbacks: tuple[CallbackEntry, ...]


class CallbackDone(msgspec.Struct, frozen=True):
    """What became of an order."""

    call_id: str
    state: str


class NumberDone(msgspec.Struct, frozen=True):
    """What became of a number."""

    number: str
    blocked: bool

"""What is asked and told of a salvage: one order, answered by lines, the last of which says how it ended."""

import msgspec


class SalvageOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to bring."""

    directory: str | None = None
    """Where the database lies, as the gateway sees it; None: wherever damaged ones were moved aside."""
    adopt: bool = False
    """Whether it is the spool of a gateway that will not come back."""
    dry_run: bool = False
    """Whether to say only what would be brought."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far it is."""

    what: str
    done: int
    total: int
    """0 where that is not known."""


class UnreadableRecord(msgspec.Struct, frozen=True):
    """A record that was there, and of which nothing can be brought."""

    record: int
    call_id: str | None
    reason: str


class Report(msgspec.Struct, frozen=True, tag="report", kw_only=True):
    """What came of one directory."""

    directory: str
    adopt: bool
    dry_run: bool
    records: dict[str, int]
    """Counts by what came of them (spool.salvage.found.Outcome)."""
    deliveries: dict[str, int]
    """Counts of what was brought, by the state that it has now."""
    payload_bytes: int
    without_token: int
    unreadable: list[UnreadableRecord]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why one directory was not brought, or not to its end."""

    directory: str
    reason: str


class NothingToDo(msgspec.Struct, frozen=True, tag="nothing"):
    """No damaged database lies aside that was not brought already."""


Line = Progress | Report | Failed | NothingToDo

"""What a check of a spool can find: its kinds, how bad each is, and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    NOTE = "note"
    """Usual after a crash; the next start deals with it."""
    WARNING = "warning"
    """Nothing acknowledged is in danger, but something is not as it should be."""
    ERROR = "error"
    """Something acknowledged is damaged, lost or stuck, or the counters are wrong."""


class Kind(StrEnum):
    """What can be wrong."""

    WRONG_OWNER = "wrong owner"
    WRONG_MODE = "wrong mode"
    LEFT_IN_STAGING = "left in staging"
    IN_QUARANTINE = "in quarantine"
    NEWER_SCHEMA = "newer schema"
    OLDER_SCHEMA = "older schema"
    UNREADABLE = "unreadable"
    MALFORMED = "malformed"
    LOST_COMMITS = "lost commits"
    MISSING_LOG = "missing log"
    UNREADABLE_RECORD = "unreadable record"
    MISSING_CHUNKS = "missing chunks"
    SHARED_CHUNKS = "shared chunks"
    BAD_FRAME = "bad frame"
    UNKNOWN_CHUNKS = "unknown chunks"
    ORPHAN_CHUNKS = "orphan chunks"
    NO_RECORD = "no record"
    NO_DESTINATION = "no destination"
    ILLEGAL_DELIVERY = "illegal delivery"
    NOTHING_OWED = "nothing owed"
    OWED_BY_RECEIPT = "owed by receipt"
    STUCK = "stuck"
    OUT_OF_TURN = "out of turn"
    WRONG_COUNTER = "wrong counter"
    WRONG_USES = "wrong uses"
    UNUSED_TOKEN = "unused token"
    MISSING_TOKEN = "missing token"
    MISSING_KEY = "missing key"
    REUSED_IDS = "reused ids"
    MISSING_META = "missing meta"
    STRAY_PROGRESS = "stray progress"
    DAMAGED_SPANS = "damaged spans"
    WRONG_TRACE = "wrong trace"
    DAMAGED_TURN = "damaged turn"
    WRONG_LIVE_CALL = "wrong live call"


@dataclass(frozen=True, slots=True)
class Rule:
    """How bad a kind of finding is, what to do about it, and whether `--repair` does it."""

    severity: Severity
    advice: str
    repaired: bool = False


_REPAIR = "stop the gateway and run `callspool fsck --repair`"
_TAKE_OVER = "start the gateway: it moves the database into quarantine and makes a new one; then `callspool salvage`"
_NEXT_START = "nothing: the next start deals with it"

RULES: Mapping[Kind, Rule] = {
    Kind.WRONG_OWNER: Rule(
        Severity.ERROR, "give the files to the user that the gateway runs as: chown -R USER DIRECTORY"
    ),
    Kind.WRONG_MODE: Rule(Severity.WARNING, f"{_REPAIR}: it is for its owner only then", repaired=True),
    Kind.LEFT_IN_STAGING: Rule(Severity.NOTE, _NEXT_START, repaired=True),
    Kind.IN_QUARANTINE: Rule(Severity.WARNING, "run `callspool salvage`; then remove the directory"),
    Kind.NEWER_SCHEMA: Rule(Severity.ERROR, "use the callspool that wrote it, or a newer one"),
    Kind.OLDER_SCHEMA: Rule(Severity.NOTE, "start the gateway once, which brings it up to date, and check again"),
    Kind.UNREADABLE: Rule(Severity.ERROR, _TAKE_OVER),
    Kind.MALFORMED: Rule(Severity.ERROR, _TAKE_OVER),
    Kind.LOST_COMMITS: Rule(Severity.ERROR, _TAKE_OVER),
    Kind.MISSING_LOG: Rule(Severity.WARNING, "look for the file: what was committed last lies in it alone"),
    Kind.UNREADABLE_RECORD: Rule(Severity.ERROR, f"{_REPAIR}: it becomes a dead letter", repaired=True),
    Kind.MISSING_CHUNKS: Rule(Severity.ERROR, f"{_REPAIR}: it becomes a dead letter", repaired=True),
    Kind.SHARED_CHUNKS: Rule(Severity.ERROR, f"{_REPAIR}: both become dead letters", repaired=True),
    Kind.BAD_FRAME: Rule(Severity.ERROR, f"{_REPAIR}: its record becomes a dead letter", repaired=True),
    Kind.UNKNOWN_CHUNKS: Rule(Severity.WARNING, f"{_REPAIR}: they are deleted", repaired=True),
    Kind.ORPHAN_CHUNKS: Rule(Severity.NOTE, _NEXT_START, repaired=True),
    Kind.NO_RECORD: Rule(Severity.ERROR, f"{_REPAIR}: it is forgotten", repaired=True),
    Kind.NO_DESTINATION: Rule(Severity.ERROR, _TAKE_OVER),
    Kind.ILLEGAL_DELIVERY: Rule(Severity.ERROR, f"{_REPAIR}: it becomes a dead letter", repaired=True),
    Kind.NOTHING_OWED: Rule(Severity.WARNING, f"{_REPAIR}: it becomes a receipt", repaired=True),
    Kind.OWED_BY_RECEIPT: Rule(Severity.ERROR, f"{_REPAIR}: it is discarded: its payload was deleted", repaired=True),
    Kind.STUCK: Rule(Severity.WARNING, "nothing: the running gateway frees it within seconds", repaired=True),
    Kind.OUT_OF_TURN: Rule(Severity.ERROR, f"{_REPAIR}: it gets its place", repaired=True),
    Kind.WRONG_COUNTER: Rule(Severity.ERROR, f"{_REPAIR}: it is recounted", repaired=True),
    Kind.WRONG_USES: Rule(Severity.WARNING, f"{_REPAIR}: they are recounted", repaired=True),
    Kind.UNUSED_TOKEN: Rule(Severity.WARNING, f"{_REPAIR}: it is overwritten and deleted", repaired=True),
    Kind.MISSING_TOKEN: Rule(Severity.ERROR, "set a token for the destination (token_mode = \"replace\")"),
    Kind.MISSING_KEY: Rule(
        Severity.ERROR, "put spool.keys back as it was beside this database; without it they cannot be decrypted"
    ),
    Kind.REUSED_IDS: Rule(Severity.ERROR, f"{_REPAIR}: numbers continue above the largest", repaired=True),
    Kind.MISSING_META: Rule(Severity.ERROR, _TAKE_OVER),
    Kind.STRAY_PROGRESS: Rule(Severity.WARNING, f"{_REPAIR}: it is deleted", repaired=True),
    Kind.DAMAGED_SPANS: Rule(Severity.ERROR, "nothing: the call log of their call says how many are missing"),
    Kind.WRONG_TRACE: Rule(Severity.ERROR, f"{_REPAIR}: it is recounted", repaired=True),
    Kind.DAMAGED_TURN: Rule(Severity.ERROR, "nothing: if the agent is lost, the call log says how many are missing"),
    Kind.WRONG_LIVE_CALL: Rule(Severity.ERROR, f"{_REPAIR}: it is recounted", repaired=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: Kind
    where: str
    """What it is about: a file, a record with its call, a destination and lane."""
    text: str
    """What is wrong with it."""
    key: tuple[int | str, ...] = ()
    """The ids that a repair needs."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return RULES[self.kind].severity

    @property
    def advice(self) -> str:
        """What to do about it."""
        return RULES[self.kind].advice

"""What was acknowledged, and what of it did not arrive: pure, from the answers, the journal and the bucket's keys."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.journal import Arrived


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One call log that was answered 2xx."""

    call_id: str
    record_id: str
    sha256: str
    """Of the decoded call log, as the answer told it."""
    two_phase: bool


@dataclass(slots=True)
class Ledger:
    """All that the agents learned: every record once, however often it was posted, and how posts ended."""

    records: dict[str, Acknowledged] = field(default_factory=dict)
    """By record id."""
    posts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Acknowledged posts by kind."""
    cut_off: int = 0
    """Posts that ended without an answer, because the gateway was gone."""
    put_off: int = 0
    """Posts that were answered 503 or 507, and repeated."""
    unanswered: list[str] = field(default_factory=list)
    """What a post was answered that is neither an acknowledgement nor to be repeated: always a defect."""

    def note(self, kind: str, answer: Mapping[str, object]) -> None:
        """Take in the answer to an acknowledged post."""
        record_id = str(answer["record_id"])
        two_phase = answer["upload_method"] == "two_phase"
        self.records[record_id] = Acknowledged(str(answer["call_id"]), record_id, str(answer["sha256"]), two_phase)
        self.posts[kind] += 1


def missing_at_endpoint(acknowledged: Iterable[Acknowledged], arrived: Sequence[Arrived]) -> tuple[str, ...]:
    """The records that the endpoint has not, or not all of, or in other bytes.

    A whole must be there as it was posted, a split one as core and detail; an object that came through an upload
    address stands for the whole or the detail of its call.
    """
    keys = {one.key: one.sha256 for one in arrived if one.kind != "object"}
    uploaded = {one.call_id for one in arrived if one.kind == "object"}

    def complete(one: Acknowledged) -> bool:
        there = one.call_id in uploaded
        if one.two_phase:
            return f"{one.record_id}-core" in keys and (there or f"{one.record_id}-detail" in keys)
        return there or keys.get(f"{one.record_id}-whole") == one.sha256

    return tuple(one.record_id for one in acknowledged if not complete(one))


def missing_in_bucket(acknowledged: Iterable[Acknowledged], keys: Collection[str]) -> tuple[str, ...]:
    """The records of which a bucket that gets everything lacks an object: the whole, or the core and the detail."""
    found = defaultdict[str, set[str]](set)
    for key in keys:
        name, _, ending = key.rpartition("/")[2].partition(".")
        found[name.partition("-")[2]].add(ending.partition(".")[0])

    def complete(one: Acknowledged) -> bool:
        forms = found.get(one.record_id, set())
        return {"core", "detail"} <= forms if one.two_phase else bool(forms)

    return tuple(one.record_id for one in acknowledged if not complete(one))

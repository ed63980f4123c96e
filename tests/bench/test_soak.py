"""The soak: its verdicts, and a short one of a real gateway."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.journal import Arrived
from bench.soak.ledger import Acknowledged, missing_at_endpoint, missing_in_bucket
from bench.soak.troubles import MEASURED_FROM, MIDDLE, timetable
from bench.soak.verdict import ANONYMOUS_MARGIN, HANDLES_MARGIN, MIB, SPOOL_MARGIN, Outcome, judge
from bench.soak.watching import Sample
from tests.budget import budgeted

WHOLE = Acknowledged("call-1", "ab-1", "digest", two_phase=False)
SPLIT = Acknowledged("call-2", "ab-2", "digest", two_phase=True)


def arrived(key: str, call_id: str = "call", sha256: str = "digest", kind: str = "whole") -> Arrived:
    return Arrived(call_id, kind, key, sha256, 1, 1, 0.0)


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ([], ("ab-1", "ab-2")),
        ([arrived("ab-1-whole"), arrived("ab-2-core"), arrived("ab-2-detail")], ()),
        ([arrived("ab-1-whole", sha256="other"), arrived("ab-2-core")], ("ab-1", "ab-2")),
        ([arrived("ab-1-whole"), arrived("ab-2-core"), arrived("k", "call-2", kind="object")], ()),
        ([arrived("ab-1-whole"), arrived("k", "call-2", kind="object")], ("ab-2",)),
    ],
    ids=["nothing", "everything", "changed or half", "an object for a detail", "an object without a core"],
)
def test_what_did_not_arrive_at_the_endpoint_is_found(there: list[Arrived], missing: tuple[str, ...]) -> None:
    """A whole must be there in its bytes, a split call log with its core and its detail or its object."""
    assert missing_at_endpoint([WHOLE, SPLIT], there) == missing


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        (set(), ("ab-1", "ab-2")),
        ({"p/d/call-1/call_ended-ab-1.json.zst", "p/d/call-2/call_ended-ab-2.core.json.zst"}, ("ab-2",)),
        ({f"p/d/c/call_ended-{name}.json.zst" for name in ("ab-1", "ab-2.core", "ab-2.detail")}, ()),
    ],
    ids=["nothing", "a core without its detail", "everything"],
)
def test_what_is_not_in_the_bucket_is_found(keys: set[str], missing: tuple[str, ...]) -> None:
    """A whole is one object, a split call log two."""
    assert missing_in_bucket([WHOLE, SPLIT], keys) == missing


def sample(at: float, **seen: int) -> Sample:
    figures = {"resident": 0, "anonymous": 0, "handles": 0, "spool_bytes": 0, "queued": 0, "dead": 0, "unaccounted": 0}
    return Sample(at, 3, **(figures | seen))


def outcome(*, later: Sample, **found: int) -> Outcome:
    figures = {
        "acknowledged": 9, "unexpected_answers": 0, "missing_at_endpoint": 0, "missing_in_bucket": 0, "conflicts": 0,
        "left_queued": 0, "left_dead": 0, "replayed": 1, "spool_before": 0, "spool_after": SPOOL_MARGIN,
        "unclean_ends": 0,
    }  # fmt: skip
    return Outcome((sample(20), later), measured_from=10, middle=55, measured_until=100, **(figures | found))


@pytest.mark.parametrize(
    ("given", "failed"),
    [
        (outcome(later=sample(60, anonymous=ANONYMOUS_MARGIN, handles=HANDLES_MARGIN)), []),
        (outcome(later=sample(60, anonymous=ANONYMOUS_MARGIN + 1)), ["Anonymous memory"]),
        (outcome(later=sample(60, resident=99 * MIB)), ["Resident memory"]),
        (outcome(later=sample(60, handles=HANDLES_MARGIN + 1)), ["File handles"]),
        (outcome(later=sample(60, unaccounted=-1)), ["Unaccounted records, at most"]),
        (outcome(later=sample(60), spool_after=SPOOL_MARGIN + 1), ["Spool folder"]),
        (outcome(later=sample(60), missing_at_endpoint=1), ["Missing at the endpoint"]),
        (outcome(later=sample(60), missing_in_bucket=1), ["Missing in the bucket"]),
        (outcome(later=sample(60), left_dead=1, left_queued=1), ["Still queued at the end", "Dead letters at the end"]),
        (outcome(later=sample(60), acknowledged=0), ["Acknowledged call logs"]),
        (outcome(later=sample(60), unclean_ends=1), ["Unclean ends"]),
        (
            outcome(later=sample(101)),
            ["Samples", "Anonymous memory", "Resident memory", "File handles"],
        ),
    ],
    ids=lambda value: ", ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_what_grew_or_was_lost_fails_the_soak(given: Outcome, failed: list[str]) -> None:
    """Each check fails by what it is for, and by nothing else; without samples in both halves nothing is flat."""
    assert [check.name for check in judge(given) if not check.held] == failed


def test_both_halves_see_the_same_troubles() -> None:
    """The halves can be compared because the same goes wrong in both, at the same times, and ends within them."""
    moments, half = timetable(600), 600 * (MIDDLE - MEASURED_FROM)
    first, second = moments[: len(moments) // 2], moments[len(moments) // 2 :]
    assert [one.trouble for one in first] == [one.trouble for one in second]
    assert [one.at_seconds + half for one in first] == pytest.approx([one.at_seconds for one in second])
    ends = [one.at_seconds + one.trouble.seconds(600) for one in moments]
    assert all(end < after.at_seconds for end, after in zip(ends, moments[1:], strict=False))
    assert ends[-1] < 600


@pytest.mark.prove
def test_a_short_soak_is_passed(disk_path: Path) -> None:
    """A gateway that is soaked in everything at once loses nothing, and ends as small as it began."""
    result = disk_path / "soak.json"
    seconds = str(budgeted(small=20, full=120))
    done = CliRunner().invoke(main, ["soak", "--seconds", seconds, "--folder", str(disk_path), "--json", str(result)])
    assert done.exit_code == 0, done.output
    told = json.loads(result.read_text())
    assert all(check["held"] for check in told["checks"])
    assert {"2 KB", "500 KB", "15 MB", "65 MB", "batch", "envelope", "upload address"} <= told["soak"]["ledger"][
        "posts"
    ].keys()
    assert told["soak"]["bad_clients"]

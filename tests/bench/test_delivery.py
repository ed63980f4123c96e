"""Measuring what arrives at the endpoint."""

import json
from pathlib import Path

from bench.delivery import drain_directly
from bench.envelopes import write_envelopes
from bench.journal import Journal
from bench.requests import PLACEHOLDER, call_id
from bench.sizes import SIZES, Size, write_bodies

ENTRY = {
    "call_id": "c", "kind": "core", "key": "k", "sha256": "d", "raw_bytes": 10, "sent_bytes": 5, "at": 1.5,
    "status": 200, "taken": True,
}  # fmt: skip


def line(**changes: object) -> str:
    return json.dumps(ENTRY | changes) + "\n"


def test_a_line_that_is_still_written_is_read_later(tmp_path: Path) -> None:
    """The journal is read while it grows; half a line is left for the next time."""
    path = tmp_path / "journal"
    whole = line(call_id="a") + line(call_id="b", kind="detail")
    path.write_text(whole[:-4])
    journal = Journal(path)
    journal.read()
    assert [one.call_id for one in journal.arrived] == ["a"]
    path.write_text(whole)
    journal.read()
    journal.read()
    assert [one.call_id for one in journal.arrived] == ["a", "b"]
    assert [one.call_id for one in journal.details()] == ["b"]


def test_what_the_endpoint_refused_did_not_arrive(tmp_path: Path) -> None:
    """Refusals are counted, and are no arrivals, even where the status was 200."""
    path = tmp_path / "journal"
    path.write_text(line(status=404, taken=False) + line(status=200, taken=False) + line())
    journal = Journal(path)
    journal.read()
    assert (journal.refused, len(journal.arrived)) == (2, 1)


def test_a_call_is_known_from_its_first_core_or_whole(tmp_path: Path) -> None:
    """A detail does not make a call known, and a repeated core does not make it known later."""
    path = tmp_path / "journal"
    path.write_text(line(kind="detail", at=1) + line(at=2) + line(at=3) + line(call_id="w", kind="whole", at=4))
    journal = Journal(path)
    journal.read()
    assert {one.call_id: one.at for one in journal.first_of_call().values()} == {"c": 2, "w": 4}


def small_log(size: Size, seed: int) -> bytes:
    """A body with the placeholder, quickly made."""
    return json.dumps({"call_id": PLACEHOLDER.decode(), "seed": seed, "text": "x" * 500}).encode()


def test_the_ceiling_measures_what_arrives_at_a_real_endpoint(tmp_path: Path) -> None:
    """Every envelope and every probe arrives, and each probe's time to the endpoint is known."""
    bodies = write_bodies(SIZES[0], tmp_path / "bodies", small_log)
    envelopes = write_envelopes(bodies[0].read_bytes(), 5, tmp_path / "envelopes")
    drain = drain_directly(envelopes, [(SIZES[0], bodies[0])], tmp_path / "run")
    assert {one.stem for one in envelopes} == {call_id(number) for number in range(1, 6)}
    assert drain.details == 15
    assert (drain.refused, drain.missing) == (0, 0)
    assert drain.raw_megabytes_per_second > 0
    assert all(0 < seconds < 30 for seconds in drain.core_seconds[bodies[0].stem])

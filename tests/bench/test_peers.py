"""The comparison with other queues: its figures, its charts and document, its sink, and a contender end to end."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from bench.environment import Environment
from bench.figures import Figure
from bench.load import Plan, run
from bench.peers.charts import Bar, Panel, bar_chart
from bench.peers.contenders import CONTENDERS
from bench.peers.figures import compare, durable
from bench.peers.plan import Plan as RunPlan
from bench.peers.plan import measure_all
from bench.peers.report import BEGIN, END, section, write_documents
from bench.peers.rounds import PeerRound, ask, measure, sink
from bench.sizes import Size, write_bodies

SMALL = Size("2 KB", 2_000, connections=2, variants=1, probes_per_second=1)
ENVIRONMENT = Environment("3.11", "Linux", 2, 1, "ext4", 1.5, "uvloop", {}, "abc")


def peer_round(contender: str, acked: float, missing: int = 0) -> PeerRound:
    nan = math.nan
    return PeerRound(contender, "2 KB", 100, 0, missing, acked, nan, 1.0, 2.0, nan, nan, nan, 0.5, 40_000_000)


ROUNDS = [
    peer_round("callspool", 100),
    peer_round("callspool", 300),
    peer_round("queue", 50),
    peer_round("queue", 70, 3),
]


def test_rounds_become_medians_with_their_spread() -> None:
    """A figure is the median of the rounds between the lowest and the highest, and what is missing adds up."""
    comparison = compare(ROUNDS, {"callspool": 1.0}, {})
    assert comparison.figures["callspool", "2 KB"].acked == Figure(200, 100, 300)
    assert comparison.figures["queue", "2 KB"].missing == 3
    assert math.isnan(comparison.figures["queue", "2 KB"].delivered.median)


@pytest.mark.parametrize(("syncs", "said"), [(1.04, "yes"), (0.0, "no"), (0.2, "no"), (None, "?")])
def test_an_answer_counts_as_durable_only_with_a_sync(syncs: float | None, said: str) -> None:
    """A sync now and then is not one for each answer, and what was not counted is not claimed."""
    assert durable(syncs) == said


def test_a_chart_is_a_document_that_follows_the_background() -> None:
    """Bars are as long as their figures, ours stands out, an unknown one has none, notes are told, text is escaped."""
    bars = (
        Bar("a <b>", Figure(50, 40, 60), note="not fsynced"),
        Bar("callspool", Figure(100, 90, 110), ours=True),
        Bar("c", Figure(*[math.nan] * 3)),
    )
    drawing = bar_chart("Acked", "more is better", [Panel("2 KB", bars)])
    root = ElementTree.fromstring(drawing)
    rectangles = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("class") != "ground"]
    first, second = (float(each.get("width", 0)) for each in rectangles)
    assert second == pytest.approx(2 * first, rel=0.01)
    assert rectangles[1].get("class") == "bar ours"
    assert "prefers-color-scheme: dark" in drawing
    assert "a &lt;b&gt;" in drawing
    assert drawing.count("not fsynced") == 1


def test_the_document_gets_its_section_and_nothing_else(tmp_path: Path) -> None:
    """What stands between the marks is replaced; who was not measured, and what went wrong, is said."""
    (tmp_path / "pictures").mkdir()
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    comparison = compare(ROUNDS, {"callspool": 1.0, "queue": None}, {"Other": "is not installed"})
    write_documents(comparison, ENVIRONMENT, "2 rounds.", tmp_path)
    text = page.read_text()
    assert text == f"before\n{section(comparison, ENVIRONMENT, '2 rounds.')}\nafter\n"
    assert "| **callspool** | yes | 200 ±50% |" in text
    assert "- Not measured: Other: is not installed." in text
    assert "**queue, 2 KB: 3 acknowledged call logs were not delivered within the time given**" in text
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        f"peers-{name}.svg" for name in ("acked", "delivered", "cpu", "memory")
    }


def test_a_page_without_a_place_for_it_is_not_changed(tmp_path: Path) -> None:
    """Nothing is written where the marks are missing; the message names them."""
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n")
    with pytest.raises(ValueError, match="peers: begin"):
        write_documents(compare(ROUNDS, {}, {}), ENVIRONMENT, "", tmp_path)
    assert page.read_text() == "# Performance\n"


@pytest.mark.prove
def test_a_contender_is_measured_to_the_last_delivery(tmp_path: Path) -> None:
    """callspool and the bare handler take posts; all that callspool acknowledged is at the sink, and times add up."""
    bodies = {SMALL.name: write_bodies(SMALL, tmp_path / "bodies")}
    bare, ours = (measure(one, (SMALL,), bodies, tmp_path / "run", 0.3)[0] for one in CONTENDERS[:2])
    assert (bare.refused, ours.refused, ours.missing) == (0, 0, 0)
    assert bare.posts > 0
    assert math.isnan(bare.delivered_per_second)
    assert 0 < ours.delivered_per_second <= ours.acked_per_second * 1.5
    assert ours.ack_p50 <= ours.end_to_end_p99
    assert ours.first_part_p50 == ours.end_to_end_p50
    assert ours.cpu_per_thousand > 0
    assert ours.peak_bytes > 1_000_000


@pytest.mark.slow
def test_the_sink_counts_calls_by_their_parts(tmp_path: Path) -> None:
    """Posts of every size are told by the id at their beginning; a call of two parts is there with the second."""
    body = b'{"call_id": "bench-0000000000", "x": "%s"}' % (b"y" * 300_000)
    with sink(tmp_path) as port:
        run(Plan(port, "/dev/send-call-log", (body,), 2, 5.0, 0.0, 3, 7))
        run(Plan(port, "/dev/send-call-log", (body,), 1, 5.0, 0.0, 1, 8))
        assert [ask(port, f"/count/{parts}") for parts in (1, 2, 3)] == [3, 1, 0]
        assert {number: count for number, (_, _, count) in ask(port, "/arrivals").items()} == {"7": 1, "8": 2, "9": 1}
        ask(port, "/forget")
        assert ask(port, "/count/1") == 0


@pytest.mark.prove
def test_the_sink_finds_the_id_in_a_compressed_body(tmp_path: Path) -> None:
    """callspool sends the frames that it stored; their beginning tells which call log it is."""
    size = Size("500 KB", 500_000, connections=2, variants=1, probes_per_second=1)
    bodies = {size.name: write_bodies(size, tmp_path / "bodies")}
    (compressed,) = (one for one in CONTENDERS if one.name == "callspool, zstd")
    (found,) = measure(compressed, (size,), bodies, tmp_path / "run", 0.3)
    assert (found.refused, found.missing) == (0, 0)
    assert found.posts > 0


def test_a_round_that_time_cut_off_does_not_count(tmp_path: Path) -> None:
    """Where time is up in the middle of a round, only whole rounds are compared; the first one is kept in any case."""
    clock = itertools.count()
    contenders = tuple(replace(CONTENDERS[0], name=name) for name in ("a", "b"))
    plan = RunPlan(contenders, (SMALL,), 3, 0.2, 5.5, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.peers.plan.measure", lambda one, *_: [peer_round(one.name, 1)])
        patch.setattr("bench.peers.plan.count_syncs", lambda *_: 0.0)
        measured, syncs = measure_all(plan, Console(quiet=True), lambda: float(next(clock)))
    assert [one.contender for one in measured] == ["a", "b"]
    assert syncs == {"a": 0.0, "b": 0.0}

"""The call logs that benchmarks and tests make."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from bench.calllogs import iter_call_log, make_call_log, parse_size
from gateway.calllog.document import parse
from gateway.calllog.split import CORE_MAX_BYTES, split
from tests.calllog.joined_documents import core, whole

SIZES = [2_000, 2_001, 9_999, 39_999, 40_000, 41_234, 150_000, 1_000_000, 15_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_size_is_met_to_the_byte(size: int) -> None:
    """A call log is JSON of exactly the size asked for."""
    made = make_call_log(size, seed=size, call_id="c-1", event="call_started", token="t")
    assert len(made) == size
    read = json.loads(made)
    assert (read["call_id"], read["wcall_event"], read["token"]) == ("c-1", "call_started", "t")


def test_the_same_arguments_give_the_same_bytes() -> None:
    """Only the seed tells one call log from another of the same size."""
    assert make_call_log(200_000, seed=1) == b"".join(iter_call_log(200_000, seed=1))
    assert make_call_log(200_000, seed=1) != make_call_log(200_000, seed=2)


def test_it_compresses_as_real_ones_do() -> None:
    """Frames of 1 MiB at level 1 make about a fifth of it, and it has the turns and spans of its size."""
    made = make_call_log(15_000_000, seed=3)
    stored = sum(len(zstandard.compress(made[at : at + 2**20], 1)) for at in range(0, len(made), 2**20))
    assert 4 < len(made) / stored < 6.5
    read = json.loads(made)
    assert 60 <= len(read["transcript_with_metrics"]) <= 90
    assert 600 <= len(read["telemetry_data"]["session_traces"]) <= 900


def test_a_giant_comes_in_small_pieces() -> None:
    """A giant is made piece by piece, none of them large."""
    pieces = iter_call_log(1_000_000_000, seed=1)
    assert all(len(next(pieces)) < 3_000_000 for _ in range(200))


@pytest.mark.parametrize("size", SIZES)
def test_it_is_split_without_loss(size: int) -> None:
    """Core and detail of a made call log are of the right size and lose nothing."""
    made = make_call_log(size, seed=1)
    parts = split(parse(made))
    assert len(core(parts)) <= CORE_MAX_BYTES
    assert json.loads(whole(parts)) == json.loads(made)


@pytest.mark.parametrize(
    ("text", "size"), [("2000", 2_000), ("15MB", 15_000_000), ("1.5 KiB", 1_536), ("1gb", 10**9), ("7B", 7)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    """A size is a number with or without a unit, of thousands or of 1024s."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1 XB", "-5", "1e9"])
def test_other_sizes_are_refused(text: str) -> None:
    """What is no size is refused, with the text that was given."""
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_too_small_is_refused() -> None:
    """Nothing can be made that has no room for what a call log must hold."""
    with pytest.raises(ValueError, match="2000 or more"):
        make_call_log(1_999, seed=1)


def test_it_runs_as_a_command() -> None:
    """The module writes a call log to standard output."""
    command = [sys.executable, "-m", "bench.calllogs", "--size", "50KB", "--seed", "7", "--call-id", "c"]
    written = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=True).stdout
    assert written == make_call_log(50_000, seed=7, call_id="c")

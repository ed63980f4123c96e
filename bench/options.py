"""What a run of the benchmark is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from bench.drain_s3 import DrainSize
from bench.sizes import Size


@dataclass(frozen=True, slots=True)
class Options:
    """A bounded amount of work: `rounds` times every size on both servers, each for `seconds`."""

    sizes: tuple[Size, ...]
    rounds: int
    seconds: float
    backlog: int
    """How many large call logs wait in the spool when the drain begins."""
    folder: Path
    """Spools, bodies and logs lie below it while the run lasts. Must be on a disk."""
    buckets: tuple[DrainSize, ...]
    """What is drained to a bucket; empty: nothing is."""
    result: Path
    """Where the JSON document goes."""

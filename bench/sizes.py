"""The sizes of call logs that are measured, and the bodies of these sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.requests import PLACEHOLDER


@dataclass(frozen=True, slots=True)
class Size:
    """One size of call log, and how many connections post it at once."""

    name: str
    body_bytes: int
    connections: int
    variants: int
    """How many different bodies are posted in turn, so that no cache of one body flatters the figures."""
    probes_per_second: float
    """How often one is posted while a backlog drains."""


SIZES = (
    Size("2 KB", 2_000, connections=32, variants=8, probes_per_second=20),
    Size("500 KB", 500_000, connections=8, variants=4, probes_per_second=4),
    Size("15 MB", 15_000_000, connections=2, variants=2, probes_per_second=0.5),
)
"""A short call, one with telemetry, and a typical one of five minutes with every turn's configuration in it."""

LARGE = SIZES[-1]
"""The size that a backlog is made of."""

MakeBody = Callable[[Size, int], bytes]
"""Makes the body of a size and a seed, with the placeholder as its call id."""


def chosen(names: str) -> tuple[Size, ...]:
    """The sizes named in a list like "2KB,15MB"; ValueError names the one that does not exist."""
    known = {size.name.replace(" ", "").lower(): size for size in SIZES}
    found = []
    for name in names.split(","):
        size = known.get(name.replace(" ", "").lower())
        if size is None:
            message = f"no size {name.strip()!r}; there are {', '.join(size.name for size in SIZES)}"
            raise ValueError(message)
        found.append(size)
    return tuple(found)


def make_body(size: Size, seed: int) -> bytes:
    """A call log as agents send them, of about this size."""
    from bench.calllogs import make_call_log  # noqa: PLC0415 - it costs start-up time in every load process

    return make_call_log(size.body_bytes, seed=seed, call_id=PLACEHOLDER.decode())


def write_bodies(size: Size, folder: Path, make: MakeBody = make_body) -> tuple[Path, ...]:
    """Write the variants of a size into the folder; the load generator reads them from there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(1, size.variants + 1):
        path = folder / f"{size.body_bytes}-{seed}.json"
        path.write_bytes(make(size, seed))
        paths.append(path)
    return tuple(paths)

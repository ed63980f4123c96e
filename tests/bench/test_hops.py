"""The counter of files and hops, on a product of three files."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import hops
from bench.hops import ACCEPTED, REPEATED, STORED, Profiler, Way

_FILES = {
    "gateway/__init__.py": "",
    "spool/__init__.py": "",
    "gateway/a.py": "from spool.b import Store\n\ndef post(): return Store().put(outside)\n\ndef outside(): pass\n",
    "spool/b.py": "class Store:\n    def put(self, back): back(); return self._own()\n    def _own(self): return 1\n",
    "tools/c.py": "def elsewhere(): pass\n",
}
_PROGRAM = """
import sys, pathlib
sys.path.insert(0, {product!r})
from bench.hops import Profiler
from gateway.a import post
from tools.c import elsewhere
profiler = Profiler(pathlib.Path({product!r}))
sys.setprofile(profiler.event)
post()
profiler.begin(until_answered=False)
post(); elsewhere()
way = profiler.end()
post()
sys.setprofile(None)
print(sorted(way.files), sorted(way.classes), way.hops)
"""


def test_files_classes_and_hops_are_counted(tmp_path: Path) -> None:
    """Only product files count, and only between begin and end; a call within a file is no hop."""
    for name, text in _FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-c", _PROGRAM.format(product=str(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=hops.ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['gateway/a.py', 'spool/b.py'] ['spool/b.py:Store'] 2"


def test_what_ran_beside_a_request_falls_out() -> None:
    """The way of a request is what all of its repetitions have in common."""
    first = Way(frozenset({"a", "b", "cleaning"}), frozenset({"A"}), 12)
    second = Way(frozenset({"a", "b"}), frozenset({"A", "Cleaning"}), 10)
    assert first.common(second) == Way(frozenset({"a", "b"}), frozenset({"A"}), 10)


@pytest.mark.parametrize("missing", [None, f"{STORED}: no S3 server"])
def test_the_table_says_what_was_not_counted(monkeypatch: pytest.MonkeyPatch, missing: str | None) -> None:
    """A row that could not be measured is named, with the reason."""
    way = Way(frozenset({"gateway/a.py"}), frozenset(), 3)
    ways = {ACCEPTED: way, REPEATED: way} | ({} if missing else {STORED: way})
    monkeypatch.setattr(hops, "count_hops", lambda _repeats: (ways, missing))
    told = CliRunner().invoke(hops.hops, ["--names"])
    assert told.exit_code == 0
    assert "gateway/a.py" in told.output
    assert ("Not counted: 15 MB post" in told.output) == (missing is not None)


def test_a_profiler_that_was_not_begun_counts_nothing() -> None:
    """Before `begin` a call costs one look."""
    profiler = Profiler()
    profiler.event(sys._getframe(), "call", None)
    assert profiler.end() == Way(frozenset(), frozenset(), 0)

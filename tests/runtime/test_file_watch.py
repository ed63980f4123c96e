"""Which changes of files reload the settings."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.runtime.reload import FileWatch


def rewrite(path: Path) -> None:
    path.write_text("other, and longer")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("other")
    other.replace(path)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [rewrite, replace, touch, Path.unlink])
def test_every_change_counts_once_when_it_has_come_to_an_end(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Written in place, replaced, as new as before, removed: said once, at the second look that sees the same."""
    file, watch = tmp_path / "file", FileWatch()
    file.write_text("text")
    watch.follow([file])
    assert [watch.changed(), watch.changed()] == [False, False]
    change(file)
    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_file_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    """Half a configuration is never read."""
    file, watch = tmp_path / "file", FileWatch()
    file.write_text("")
    watch.follow([file])
    for size in range(1, 4):
        file.write_text("x" * size)
        assert not watch.changed()
    assert watch.changed()


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """Kubernetes swaps a link to the folder of all files of a ConfigMap or Secret."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
    data, file, watch = tmp_path / "..data", tmp_path / "file", FileWatch()
    data.symlink_to("one")
    file.symlink_to("..data/file")
    watch.follow([file])
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(data)
    assert [watch.changed(), watch.changed()] == [False, True]


def test_what_is_followed_may_change(tmp_path: Path) -> None:
    """Reloaded settings may name other files: those are as they are, and what was seen of the others stays."""
    first, second, watch = tmp_path / "first", tmp_path / "second", FileWatch()
    first.write_text("")
    watch.follow([first])
    first.write_text("changed")
    second.write_text("")
    watch.follow([first, second])
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.follow([second])
    first.write_text("changed again")
    assert [watch.changed(), watch.changed()] == [False, False]

"""A file that appears under its name only when it is whole and durable. Synchronous: run it in a thread.

POSIX promises a file's content after its own fsync, and its name after the fsync of its directory; a new directory
again needs the fsync of its parent.

Below the root no link is followed, no directory is used that somebody else could change, and no file is written to that
was there before: whoever made it could still have it open. Names are made of ids that strangers chose.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from spool.records import Buffer

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class DurableFile:
    """Writes to a hidden temporary name beside `path`; `commit` makes it durable and gives it its name.

    `root` is the directory above which nothing is made durable again and again. Left without `commit`, the temporary
    file is removed. What a killed process left is replaced by the next attempt, because the name is the same.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._file: FileIO | None = None
        self._directory = -1

    def open(self) -> None:
        """Open it, making missing directories. Raises `OSError`."""
        make_directories(self._root)
        self._directory = _open_below(self._root, self._path.parent)
        with suppress(FileNotFoundError):
            os.unlink(self._partial.name, dir_fd=self._directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = FileIO(os.open(self._partial.name, flags, FILE_MODE, dir_fd=self._directory), "wb")

    def write(self, data: Buffer) -> None:
        """Append all of `data`. Raises `OSError`."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._opened.write(rest) :]

    def commit(self) -> None:
        """Flush it to the disk, give it its name, and flush that too. Raises `OSError`."""
        commit_all((self,))

    def publish(self) -> None:
        """Flush the content and give it its name; the name is not durable yet. Raises `OSError`."""
        os.fsync(self._opened.fileno())
        self._opened.close()
        os.replace(self._partial.name, self._path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    @property
    def directories(self) -> list[Path]:
        """The directories up to the root, the deepest first."""
        return directories_of(self._root, self._path)

    def discard(self) -> None:
        """Remove what is not committed; without effect on what is."""
        if self._file is not None:
            self._file.close()
            with suppress(FileNotFoundError):
                os.unlink(self._partial.name, dir_fd=self._directory)
            self._file = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    @property
    def _opened(self) -> FileIO:
        if self._file is None:
            raise ValueError("the file is not open")
        return self._file


def commit_all(files: Sequence[DurableFile]) -> None:
    """Commit several files of one root; directories that they share are flushed once. Raises `OSError`.

    The directories up to the root are flushed even when they were there: a killed process may have made them.
    """
    for file in files:
        file.publish()
    shared = {directory for file in files for directory in file.directories}
    for directory in sorted(shared, key=lambda path: len(path.parts), reverse=True):
        sync_directory(directory)


def is_kept(root: Path, path: Path) -> bool:
    """Whether the file is there under a durable name: who gave it that may have been killed. Raises `OSError`."""
    if not path.is_file():
        return False
    for directory in directories_of(root, path):
        sync_directory(directory)
    return True


def directories_of(root: Path, path: Path) -> list[Path]:
    """Those of a file up to the root, the deepest first."""
    return [directory for directory in path.parents if directory.is_relative_to(root)]


def _open_below(root: Path, path: Path) -> int:
    """A descriptor of the directory `path` below `root`, which exists; what is missing is made, and durable.

    Raises `OSError` for a link in place of a directory, and for one that somebody else may change.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.relative_to(root).parts:
            inner = _open_directory(name, descriptor)
            os.close(descriptor)
            descriptor = inner
            status = os.fstat(descriptor)
            if status.st_uid not in {os.geteuid(), 0} or status.st_mode & 0o002:
                raise OSError(errno.EPERM, "somebody else made this directory or may write to it", name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_directory(name: str, parent: int) -> int:
    """Make the directory if it is missing, and open it."""
    with suppress(FileExistsError):  # as is usual
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
        os.fsync(parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def make_directories(path: Path) -> None:
    """Make `path` and its missing parents, each durable before the next. Raises `OSError`."""
    if path.is_dir():
        return
    make_directories(path.parent)
    path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_files(folders: Iterable[Path], belongs: Callable[[Path], bool | None], *, dry_run: bool) -> tuple[int, int]:
    """Remove the files in these folders that belong to what is erased, and folders that nothing is left in.

    Returns how many these were, and of how many `belongs` cannot tell. Raises `OSError`.
    """
    count = unclear = 0
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            continue
        found = {path: belongs(path) for path in folder.iterdir()}
        count += sum(each is True for each in found.values())
        unclear += sum(each is None for each in found.values())
        if not dry_run:
            for path in [path for path, each in found.items() if each]:
                path.unlink()
            if all(found.values()):
                folder.rmdir()
    return count, unclear


# Names of files from ids that strangers chose: pure, and one-to-one.
#
# An id that is already a harmless name stays as it is. Any other has its unusual characters replaced and gets `~` and
# a digest: `~` is no harmless character, so that no id can imitate the changed form of another.

KEPT_CHARACTERS = 80
"""Three ids and an ending together stay below the 255 bytes that file systems allow a name."""

_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_UNUSUAL = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


def safe_name(text: str) -> str:
    """A name for `text` in any directory of any common file system; distinct texts have distinct names."""
    if len(text) <= KEPT_CHARACTERS and _HARMLESS.fullmatch(text) and not text.endswith("."):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{_UNUSUAL.sub('_', text).lstrip('-')[: KEPT_CHARACTERS - 20]}~{digest}"

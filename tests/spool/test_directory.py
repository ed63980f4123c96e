"""The spool directory: one owner, a file system that holds what SQLite needs, files for the owner only."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spool import directory as spool_directory
from spool.db.connection import log_of
from spool.directory import DATABASE_NAME, DirectoryLock, Mount, mount_of, mounts, prepare_directory
from spool.errors import SpoolLocked, UnsuitableDirectory
from spool.space import DiskSpace
from tests.spool.spool_parts import a_record, opened

OWNER = """
import sys
from pathlib import Path
from spool.directory import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire(0)
print("owned", flush=True)
sys.stdin.read()
"""


@contextmanager
def an_owner(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that owns the directory until its standard input is closed."""
    command = [sys.executable, "-c", OWNER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        yield owner


def mounted(*pairs: tuple[str, str]) -> Iterator[Mount]:
    return iter([Mount(point, kind) for point, kind in pairs])


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """Promise 9: the directory is 0700, and the database, its log and the lock are 0600, whatever the umask."""
    old = os.umask(0)
    try:
        async with opened(tmp_path / "new" / "spool") as spool:
            await spool.accept(a_record())
            directory = tmp_path / "new" / "spool"
            modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    finally:
        os.umask(old)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}
    assert {DATABASE_NAME, log_of(directory / DATABASE_NAME).name, "spool.lock"} <= set(modes)


async def test_a_database_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """A spool.db that was copied with wider permissions gets 0600 at the start."""
    async with opened(tmp_path):
        pass
    (tmp_path / DATABASE_NAME).chmod(0o644)
    async with opened(tmp_path):
        assert (tmp_path / DATABASE_NAME).stat().st_mode & 0o777 == 0o600


async def test_another_process_is_the_owner_until_it_ends(tmp_path: Path) -> None:
    """Opening a directory that a process owns names that process; after its end, however it came, it is free."""
    with an_owner(tmp_path) as owner:
        with pytest.raises(SpoolLocked, match=f"pid {owner.pid}"):
            async with opened(tmp_path, lock_timeout=0.0):
                pass
        owner.kill()
        owner.wait()
        async with opened(tmp_path, lock_timeout=0.0) as spool:
            assert (await spool.accept(a_record())).ready


async def test_a_start_waits_for_the_predecessor_that_is_stopping(tmp_path: Path) -> None:
    """Within its time-out a start waits for the lock instead of giving up at once."""
    with an_owner(tmp_path) as owner:
        assert owner.stdin is not None
        owner.stdin.close()
        async with opened(tmp_path, lock_timeout=30.0) as spool:
            assert (await spool.accept(a_record())).ready


def test_a_lock_that_was_given_back_is_free(tmp_path: Path) -> None:
    """Releasing is harmless when repeated, and the next one gets it."""
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.acquire(0)
    with pytest.raises(SpoolLocked):
        second.acquire(0)
    first.release()
    first.release()
    third = DirectoryLock(tmp_path)
    third.acquire(0)
    third.release()


async def test_a_directory_that_is_a_file_is_unsuitable(tmp_path: Path) -> None:
    """Where no directory can be made, the message names it and the setting."""
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UnsuitableDirectory, match="CALLSPOOL_SPOOL_DIR"):
            async with opened(place):
                pass


def test_a_directory_that_cannot_be_written_is_unsuitable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says whose directory it should be."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UnsuitableDirectory, match=f"user id {os.geteuid()}"):
        prepare_directory(tmp_path)


def test_a_lock_that_cannot_be_made_is_unsuitable(tmp_path: Path) -> None:
    """A lock file that cannot be opened is told as such."""
    (tmp_path / "spool.lock").mkdir()
    with pytest.raises(UnsuitableDirectory, match=r"spool\.lock"):
        DirectoryLock(tmp_path)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.s3fs"])
def test_network_file_systems_are_refused(tmp_path: Path, kind: str) -> None:
    """Where neither locks nor fsync hold, no spool is made."""
    with pytest.raises(UnsuitableDirectory, match=kind):
        prepare_directory(tmp_path, lambda: mounted(("/", "ext4"), (str(tmp_path), kind)))


@pytest.mark.parametrize(
    ("kind", "in_container", "warned"),
    [("overlay", True, True), ("overlay", False, False), ("tmpfs", True, True), ("ext4", True, False)],
)
def test_what_goes_with_the_container_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, in_container: bool, warned: bool
) -> None:
    """In a container, a directory that is no volume is usable and told of."""
    monkeypatch.setattr(spool_directory, "_in_container", lambda: in_container)
    warning = prepare_directory(tmp_path, lambda: mounted(("/", kind)))
    assert (warning is not None) is warned
    assert warning is None or "volume" in warning


def test_without_knowledge_of_mounts_nothing_is_refused(tmp_path: Path) -> None:
    """Where the kernel does not say what is mounted, the directory is taken as it is."""
    assert prepare_directory(tmp_path, mounted) is None
    assert list(mounts(tmp_path / "missing")) == []


def test_a_container_is_recognised_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes tells every pod where its API is."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    assert spool_directory._in_container()


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    """Optional fields are skipped, and octal escapes are undone."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/root rw\n"
        "30 22 0:5 / /mnt/with\\\\040space\\\\134and rw - nfs4 server:/x rw\n".replace("\\\\", "\\")
    )
    assert list(mounts(mountinfo)) == [Mount("/", "ext4"), Mount("/mnt/with space\\and", "nfs4")]


def test_the_mount_of_a_path_is_the_nearest_above_it() -> None:
    """The longest mount point counts; of two on the same point the later one hides the earlier."""
    found = mount_of(
        Path("/a/b/c"), mounted(("/", "ext4"), ("/a/b", "xfs"), ("/a/bb", "nfs"), ("/a/b", "tmpfs"), ("/a", "ext4"))
    )
    assert found == Mount("/a/b", "tmpfs")
    assert any(mount.mount_point == "/" for mount in mounts())


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
async def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """As ssh does: who may replace the database may read and forge call logs; the message says chmod."""
    tmp_path.chmod(mode)
    with pytest.raises(UnsuitableDirectory, match="chmod go-w"):
        async with opened(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the directory could give its files new contents; the message says chown."""
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 1)
    if tmp_path.stat().st_uid == 0:
        os.chown(tmp_path, 4711, -1)
    with pytest.raises(UnsuitableDirectory, match=f"chown -R {os.geteuid()}"):
        prepare_directory(tmp_path)


def test_a_volume_of_a_pod_is_accepted_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emptyDir belongs to root and is open to everybody, who is only whoever runs in the pod."""
    tmp_path.chmod(0o777)
    real_stat = Path.stat
    owned_by_root = os.stat_result((*tmp_path.stat()[:4], 0, *tmp_path.stat()[5:]))

    def stat_of(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        return owned_by_root if path == tmp_path else real_stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat_of)
    monkeypatch.setattr(spool_directory, "_in_container", lambda: False)
    with pytest.raises(UnsuitableDirectory):
        prepare_directory(tmp_path, lambda: mounted((str(tmp_path), "ext4")))
    monkeypatch.setattr(spool_directory, "_in_container", lambda: True)
    warning = prepare_directory(tmp_path, lambda: mounted((str(tmp_path), "ext4")))
    assert warning is not None
    assert "directory below it" in warning


@pytest.mark.parametrize("name", ["spool.lock", "spool.headroom", DATABASE_NAME, f"{DATABASE_NAME}-wal", "staging"])
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
async def test_no_link_in_the_directory_is_written_through(tmp_path: Path, name: str, kind: str) -> None:
    """A link in place of one of the spool's files is refused by name, and what it leads to stays as it was."""
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    if kind == "symbolic":
        (directory / name).symlink_to(target)
    else:
        (directory / name).hardlink_to(target)
    with pytest.raises(UnsuitableDirectory, match=name):
        async with opened(directory):
            pass
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["spool.lock", "spool.headroom"])
def test_a_link_made_after_the_check_is_not_followed(tmp_path: Path, name: str) -> None:
    """The files are opened so that the kernel itself refuses a link."""
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / name).symlink_to(target)
    if name == "spool.lock":
        with pytest.raises(UnsuitableDirectory):
            DirectoryLock(tmp_path)
    else:
        DiskSpace(tmp_path, 1 << 20).give_up("full")
    assert target.read_bytes() == b"mine"


def test_files_are_private_and_a_directory_that_is_not_is_named(tmp_path: Path) -> None:
    """What others may read of a spool that was put back is closed to them; that they may look into it is said."""
    directory = tmp_path / "spool"
    assert prepare_directory(directory, lambda: iter(())) is None
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", "spool.keys"):
        (directory / name).touch()
        (directory / name).chmod(0o644)
    (directory / "staging").mkdir(0o755)
    directory.chmod(0o755)
    assert "chmod 700" in (prepare_directory(directory, lambda: iter(())) or "")
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600, 0o700}

"""Space: the quota, with what is reserved in it for posts on their way in, and the headroom on the disk.

A part of it is kept for records that owe nothing to the detail lane, so that a spool full of details still accepts
what a dashboard needs at once.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spool.errors import NO_ROOM, SpoolFull

DEFAULT_LIMIT = 10 << 30
SHARE_OF_FREE_SPACE = 0.8
DEFAULT_RESERVE_SHARE = 20
"""A twentieth of the quota: of 10 GiB that is room for more than 1,000 call logs of 500 KB, or 250,000 of 2 KB."""


def default_limit(directory: Path) -> int:
    """The smaller of 10 GiB and 80 % of what is free now; worked out once, at the first start."""
    return min(DEFAULT_LIMIT, int(shutil.disk_usage(directory).free * SHARE_OF_FREE_SPACE))


def reserve_of(limit_bytes: int, wanted_bytes: int | None) -> int:
    """What of the quota is kept for cores: at most half of it, whatever is wanted."""
    reserve = limit_bytes // DEFAULT_RESERVE_SHARE if wanted_bytes is None else wanted_bytes
    return min(reserve, limit_bytes // 2)


class QuotaReservation:
    """Bytes of the quota that are reserved for as long as a block lasts."""

    __slots__ = ("_byte_count", "_quota")

    def __init__(self, quota: "Quota", byte_count: int) -> None:
        self._quota = quota
        self._byte_count = byte_count

    def __enter__(self) -> None:
        """They were reserved when this was made."""

    def __exit__(self, *_: object) -> None:
        """What of them was used is measured now."""
        self._quota.release(self._byte_count)


class Quota:
    """Bytes used, reserved and allowed. For the event loop only.

    `waited` returns for how many milliseconds the oldest record that is still owed has waited, if there is one.
    """

    def __init__(
        self, limit_bytes: int, reserve_bytes: int = 0, waited: Callable[[], int | None] = lambda: None
    ) -> None:
        self.limit_bytes = limit_bytes
        self.reserve_bytes = reserve_bytes
        """The last part of the limit, which only records without details may use."""
        self.staged_bytes = 0
        """The bytes of staging files, by `stage` and `unstage`."""
        self._waited = waited
        self._reserved = 0

    def reserve(self, byte_count: int, used_bytes: int, *, core: bool = False) -> "QuotaReservation":
        """Set `byte_count` aside for a post on its way in, or raise `SpoolFull`; afterwards its use is measured.

        To be used in a `with` statement at once. With `core` the part that is kept for cores may be used.
        """
        self._check(byte_count, used_bytes, core=core)
        self._reserved += byte_count
        return QuotaReservation(self, byte_count)

    def release(self, byte_count: int) -> None:
        """So much less is reserved: it was used, or will not be."""
        self._reserved -= byte_count

    def fits(self, byte_count: int, used_bytes: int, *, core: bool = False) -> bool:
        """Whether so much could be reserved now."""
        limit = self.limit_bytes if core else self.limit_bytes - self.reserve_bytes
        return self._occupied(used_bytes) + byte_count <= limit

    def missing(self, byte_count: int, used_bytes: int, *, core: bool = False) -> int:
        """How many bytes have to become free before so much could be reserved; 0 where it could be now."""
        limit = self.limit_bytes if core else self.limit_bytes - self.reserve_bytes
        return max(0, self._occupied(used_bytes) + byte_count - limit)

    def stage(self, byte_count: int, used_bytes: int) -> None:
        """Count so many bytes of a staging file, or raise `SpoolFull`; what is staged is large, and never a core."""
        self._check(byte_count, used_bytes, core=False)
        self.staged_bytes += byte_count

    def unstage(self, byte_count: int) -> None:
        """So many bytes of staging files were removed."""
        self.staged_bytes -= byte_count

    def _occupied(self, used_bytes: int) -> int:
        """What is used, staged and reserved."""
        return used_bytes + self.staged_bytes + self._reserved

    def _check(self, byte_count: int, used_bytes: int, *, core: bool) -> None:
        """Raise `SpoolFull` where so much does not fit."""
        if self.fits(byte_count, used_bytes, core=core):
            return
        occupied, waited = self._occupied(used_bytes), self._waited()
        kept = f" ({self.reserve_bytes} of them kept for cores)" if self.reserve_bytes and not core else ""
        oldest = "" if waited is None else f"; the oldest delivery has waited for {waited / 1000:.0f} s"
        raise SpoolFull(
            f"the spool is full: {occupied} of {self.limit_bytes} bytes are used{kept} and {byte_count} more are "
            f"needed{oldest}; it empties as deliveries succeed (the status page shows why they do not), "
            "or raise CALLSPOOL_SPOOL_MAX_BYTES where the disk has room for more",
            used_bytes=occupied,
            limit_bytes=self.limit_bytes,
            allowed_bytes=self.limit_bytes if core else self.limit_bytes - self.reserve_bytes,
        )


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may use of the spool, and its own times in milliseconds; None: as everybody."""

    share: float | None = None
    """The part of the quota."""
    receipts_keep: int | None = None
    expire_after: int | None = None
    dead_keep: int | None = None


class TenantShares:
    """What tenants may use of the quota: who fills its share is refused, while the others' posts are accepted.

    It is compared with what was stored before, so that posts of a tenant that come in at the same time may exceed its
    share together. Spans of open calls are no part of it. For the event loop.
    """

    def __init__(
        self, tenants: Mapping[str, TenantLimits], limit_bytes: int, used: Callable[[], Mapping[str, int]]
    ) -> None:
        """Shares are parts of `limit_bytes`; `used` returns what each tenant has stored."""
        self._limits = {name: int(each.share * limit_bytes) for name, each in tenants.items() if each.share is not None}
        self._used = used

    def limit_of(self, tenant: str) -> int | None:
        """What its share allows, in bytes; None where it has none."""
        return self._limits.get(tenant)

    def check(self, tenant: str | None, byte_count: int) -> None:
        """Raise `SpoolFull` where so much more is above the tenant's share."""
        limit = None if tenant is None else self._limits.get(tenant)
        if limit is None or tenant is None:
            return
        used = self._used().get(tenant, 0)
        if used + byte_count > limit:
            raise SpoolFull(
                f"the tenant {tenant} has filled its share of the spool: {used} of {limit} bytes are used and "
                f"{byte_count} more are needed; its call logs are accepted again as its deliveries succeed, or raise "
                f"quota_share of tenants.{tenant}",
                used_bytes=used,
                limit_bytes=limit,
                allowed_bytes=limit,
            )


# Room on the disk: headroom that is given up when the disk is full, and what may be written until it is back.
#
# On a full disk posts are refused, but what leaves the spool must be written down: a settlement that cannot be written
# is made again, and a payload that cannot be deleted keeps its room. So some space is allocated beforehand, and given
# to the database and its log when a write finds no room. It is allocated again as soon as the disk has room for it;
# until then nothing is accepted.

HEADROOM_NAME = "spool.headroom"
LARGEST_HEADROOM_BYTES = 16 << 20
"""A checkpoint every 8 MiB and what is written during one, besides some dozen settlements of 100 KB."""
SMALLEST_HEADROOM_BYTES = 512 << 10
HEADROOM_SHARE = 16
"""Of a small disk or quota, this part."""
OPENING_BYTES = 1 << 20
"""What a start may need: SQLite's shared memory, the first page of a log, a migration."""
PATIENCE_SECONDS = 10.0
"""A quota of the user's or a lack of inodes shows as free space all the same: so long the failure is believed."""


def headroom_bytes(directory: Path, limit_bytes: int) -> int:
    """How much is allocated beforehand for a spool of this quota on this disk."""
    share = min(limit_bytes, shutil.disk_usage(directory).total) // HEADROOM_SHARE
    return max(SMALLEST_HEADROOM_BYTES, min(LARGEST_HEADROOM_BYTES, share))


def make_room_to_open(directory: Path) -> None:
    """Give the headroom up where there is so little room that not even opening the database would succeed."""
    if shutil.disk_usage(directory).free < OPENING_BYTES:
        _shorten(directory / HEADROOM_NAME, 0)


class DiskSpace:
    """The headroom of one spool, and what is known of its disk. For any thread.

    After a large payload found no room, large ones are refused; after a small one did, all are; and when what adds
    nothing to the spool finds none, the headroom is given up for it. All of this is over when there is room again for
    the headroom and as much besides.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.size = size
        """The least headroom."""
        self._directory = directory
        self._path = directory / HEADROOM_NAME
        self._lock = threading.Lock()
        self._held = 0
        self._refuses_all = True
        self._wanted = size
        self._seen_at = time.monotonic() - PATIENCE_SECONDS
        self._free_then = 0
        self.shortage: str | None = f"the disk is full: no room for {self._path}; free space on it"
        """Why not everything can be accepted, if so."""
        self.recover(margin=0)

    def taken_bytes(self, unmoved_bytes: int) -> int:
        """What the headroom takes beside pages of which so many bytes are not in the database's file yet."""
        return max(self.size, self._held - unmoved_bytes)

    def refuses(self, *, large: bool) -> bool:
        """Whether a payload must not be tried; what has none is never refused."""
        return self.shortage is not None and (large or self._refuses_all)

    def keep(self, unmoved_bytes: int) -> None:
        """Have headroom for what the database's file has to grow by when it takes over its log, and `size` besides.

        Where the disk has no room for that, large payloads are refused from now on.
        """
        self._wanted = self.size + unmoved_bytes
        if self._held and not self._wanted <= self._held <= self._wanted + self.size:
            with self._lock:
                self._resize()

    def ran_out(self, reason: str, *, large: bool = False) -> None:
        """A payload found no room; with `large` one that is no measure for small ones."""
        with self._lock:
            self._note(reason)
            self._refuses_all |= not large

    def give_up(self, reason: str) -> None:
        """What must be written to empty the spool found no room: it may have the headroom."""
        with self._lock:
            self._note(reason)
            self._refuses_all = True
            _shorten(self._path, 0)
            self._held = 0

    def recover(self, margin: int | None = None) -> None:
        """Take the headroom again and end the shortage, if there is room for it and `margin` bytes, or as many."""
        with self._lock:
            needed = max(0, self._wanted - self._held) + (self.size if margin is None else margin)
            free = shutil.disk_usage(self._directory).free
            grown = free >= self._free_then + needed
            if free >= needed and (grown or time.monotonic() - self._seen_at >= PATIENCE_SECONDS):
                self.shortage = None
                self._resize()
                self._refuses_all = not self._held

    def _resize(self) -> None:
        """Make the headroom as large as is wanted, or leave it as it is and note that there was no room."""
        size = self._wanted + self.size // 2 if self._wanted > self.size else self.size
        try:
            _take(self._path, size)
        except OSError as error:
            _shorten(self._path, self._held)
            if self._held and error.errno not in NO_ROOM:
                return  # a disk that fails otherwise is reported by the writes that matter
            self._note(f"the disk is full: no room for {self._path} ({error.strerror}); free space on it")
            return
        self._held = size

    def _note(self, reason: str) -> None:
        """There is a shortage now."""
        self.shortage = reason
        self._seen_at = time.monotonic()
        self._free_then = shutil.disk_usage(self._directory).free


def _take(path: Path, size: int) -> None:
    """Allocate the file, for its owner only. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _shorten(path: Path, size: int) -> None:
    """Give its blocks back to the file system. A disk that fails here is reported by other writes."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

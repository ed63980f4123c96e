"""Upload addresses: what they take of the spool before anything is accepted."""

import asyncio
import sys
from pathlib import Path

import pytest

from spool.queue import uploads
from spool.records import Delivered
from spool.store import Spool
from tests.spool.spool_parts import HOUR, NOW, Clock, a_record, maintained, opened, rows

MIB = 1 << 20
LONGEST_KEY = 8190


def stored_bytes(directory: Path) -> int:
    """What the database holds, without free pages and without the log."""
    ((pages, free, size),) = rows(directory, "SELECT * FROM pragma_page_count, pragma_freelist_count, pragma_page_size")
    return (int(str(pages)) - int(str(free))) * int(str(size))


async def flood(spool: Spool, count: int, sender: str, prefix: str = "") -> None:
    """Ask for addresses, each with a long key of its own that begins with the sender's name."""
    for number in range(count):
        key = f"{prefix}{sender}-{number}"
        await spool.register_upload(
            key.encode(), key, "c" * 512, (key if sender else "").ljust(LONGEST_KEY), NOW + HOUR
        )


async def test_addresses_take_a_small_part_of_the_quota(tmp_path: Path) -> None:
    """However many are asked for, with the longest keys, the spool hardly grows, and accepts posts."""
    async with opened(tmp_path, max_bytes=64 * MIB) as spool:
        await flood(spool, 400, "evil")
        assert stored_bytes(tmp_path) < 3 * MIB
        ((count, tokens),) = rows(tmp_path, "SELECT count(*), (SELECT count(*) FROM tokens) FROM uploads")
        assert count == tokens < 64 * MIB // uploads.QUOTA_SHARE // LONGEST_KEY
        assert not (await spool.accept(a_record("honest"))).duplicate


async def test_long_tokens_take_no_memory(tmp_path: Path) -> None:
    """Of each sender no more is kept there than tells it from the others."""
    async with opened(tmp_path, max_bytes=1 << 30) as spool:
        await flood(spool, 50, "evil")
        senders = spool._uploads._by_sender
        assert len(senders) == len(spool._uploads) == 50
        assert sum(sys.getsizeof(sender) for sender in senders) < 50 * 100


async def test_a_flood_pushes_out_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses of other senders stay; of the one that asks for very many, the newest ones do."""
    monkeypatch.setattr(uploads, "MOST", 8)
    async with opened(tmp_path) as spool:
        for number in range(3):
            await spool.register_upload(b"honest%d" % number, f"honest{number}", "c", "honest", NOW + HOUR)
        for number in range(50):
            await spool.register_upload(b"evil%d" % number, f"evil{number}", "c", "evil", NOW + HOUR)
        left = {key for (key,) in rows(tmp_path, "SELECT s3_key FROM uploads")}
        assert left == {"honest0", "honest1", "honest2", *(f"evil{number}" for number in range(45, 50))}


async def test_of_many_senders_with_one_address_each_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a new key for each address a flood pushes out the oldest, never the one that is given."""
    monkeypatch.setattr(uploads, "MOST", 4)
    async with opened(tmp_path) as spool:
        for number in range(10):
            await spool.register_upload(b"%d" % number, f"k{number}", "c", f"token{number}", NOW + HOUR)
        assert {key for (key,) in rows(tmp_path, "SELECT s3_key FROM uploads")} == {"k6", "k7", "k8", "k9"}


async def test_an_address_that_was_used_is_not_pushed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came through it is known by it for a day, for a repeated upload."""
    monkeypatch.setattr(uploads, "MOST", 2)
    async with opened(tmp_path) as spool:
        await spool.register_upload(b"used", "used", "c", "honest", NOW + HOUR)
        await spool.accept(a_record("c", upload_key_hash=b"used"))
        for number in range(10):
            await spool.register_upload(b"%d" % number, f"k{number}", "c", "evil", NOW + HOUR)
        assert await spool.find_upload(b"used") is not None
        assert await spool.find_upload(b"8") is not None
        assert await spool.find_upload(b"7") is None


async def test_unused_addresses_go_when_they_expire(spool: Spool, clock: Clock, tmp_path: Path) -> None:
    """A minute after it expired an address that nobody used is gone, with its token; a used one stays for a day."""
    await spool.register_upload(b"unused", "unused", "c", "t", NOW + HOUR)
    await spool.register_upload(b"used", "used", "c", "t", NOW + HOUR)
    await spool.accept(a_record("c", upload_key_hash=b"used"))
    clock.now = NOW + HOUR + 30_000
    await maintained(spool)
    assert await spool.find_upload(b"unused") is not None
    clock.now = NOW + HOUR + 60_001
    await maintained(spool)
    assert rows(tmp_path, "SELECT s3_key FROM uploads") == [("used",)]


async def test_receipts_leave_room_for_posts(tmp_path: Path) -> None:
    """Where the quota is nearly used up, receipts go before their time, whoever's long names they keep."""
    async with opened(tmp_path, max_bytes=8 * MIB) as spool:
        accepted = await asyncio.gather(
            *(spool.accept(a_record(f"{number}".ljust(500, "\U0001f4de"))) for number in range(2_000))
        )
        await asyncio.gather(*(spool.settle(one.ready[0], Delivered()) for one in accepted))
        before = stored_bytes(tmp_path)
        await maintained(spool)
        assert stored_bytes(tmp_path) < before / 2

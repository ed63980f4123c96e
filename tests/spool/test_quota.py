"""The quota: what counts, what is refused before it is written, what is left where the limit comes from."""

import asyncio
import os
from pathlib import Path

import pytest

from spool.db.connection import log_of
from spool.db.startup import Start
from spool.directory import DATABASE_NAME
from spool.errors import SpoolFull
from spool.records import Accepted, Delivered, DestinationIds
from spool.space import DEFAULT_LIMIT, HEADROOM_NAME, Quota, default_limit
from spool.store import Spool
from tests.spool.spool_parts import a_record, checkpointed, due, maintained, opened, rows

MIB = 1 << 20


def test_what_is_promised_counts_until_it_is_in() -> None:
    """Two posts that fit only one at a time cannot both be on their way in."""
    quota = Quota(100)
    with quota.reserve(60, 0):
        with pytest.raises(SpoolFull) as refused, quota.reserve(60, 0):
            pass
        assert (refused.value.used_bytes, refused.value.limit_bytes) == (60, 100)
        assert "CALLSPOOL_SPOOL_MAX_BYTES" in str(refused.value)
    with quota.reserve(60, 40):
        pass


def test_a_promise_ends_with_an_error_too() -> None:
    """What came to nothing takes no room."""
    quota = Quota(100)
    with pytest.raises(LookupError), quota.reserve(100, 0):
        raise LookupError
    with quota.reserve(100, 0):
        pass


def test_staging_files_count() -> None:
    """What lies in staging takes room from the spool until it is told to be gone."""
    quota = Quota(100)
    quota.stage(80, 0)
    with pytest.raises(SpoolFull), quota.reserve(30, 0):
        pass
    with pytest.raises(SpoolFull):
        quota.stage(30, 0)
    quota.unstage(80)
    assert quota.staged_bytes == 0
    quota.stage(100, 0)


def test_the_default_is_bounded_and_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller of 10 GiB and 80 % of what is free."""
    assert 0 < default_limit(tmp_path) <= DEFAULT_LIMIT
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert default_limit(tmp_path) == 800


async def test_the_default_is_worked_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start's default holds when less is free later, and a configured limit is not kept as one."""
    monkeypatch.setattr("spool.db.startup.default_limit", lambda _: 50 * MIB)
    async with opened(tmp_path, max_bytes=20 * MIB) as spool:
        assert spool.stats().limit_bytes == 20 * MIB
    monkeypatch.setattr("spool.db.startup.default_limit", lambda _: 10 * MIB)
    async with opened(tmp_path) as spool:
        assert spool.stats().limit_bytes == 50 * MIB


async def test_a_full_spool_refuses_and_takes_again_after_deliveries(tmp_path: Path) -> None:
    """When the limit is reached posts are SpoolFull; what was delivered makes room."""
    async with opened(tmp_path, max_bytes=24 * MIB) as spool:
        posts = (spool.accept(a_record(f"c{number}", body=os.urandom(MIB))) for number in range(40))
        results = [result for post in posts for result in await asyncio.gather(post, return_exceptions=True)]
        assert {type(result) for result in results} == {Accepted, SpoolFull}
        assert 8 < sum(isinstance(result, Accepted) for result in results) < 24
        for delivery in await due(spool):
            await spool.settle(delivery, Delivered())
        await maintained(spool)
        checkpointed(tmp_path)
        assert (await spool.accept(a_record("again", body=os.urandom(MIB)))).ready


async def test_a_giant_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """Refused in the middle of its way in, a payload leaves neither chunks nor promises."""
    async with opened(tmp_path, max_bytes=20 * MIB) as spool:
        with pytest.raises(SpoolFull):
            await spool.accept(a_record("c", body=os.urandom(40 * MIB)))
        assert spool._quota._reserved == 0
        await maintained(spool)
        assert rows(tmp_path, "SELECT (SELECT count(*) FROM chunks), (SELECT count(*) FROM orphan_chunks)") == [(0, 0)]
        assert await due(spool) == []


async def test_what_is_used_is_pages_log_headroom_and_staging(spool: Spool, tmp_path: Path) -> None:
    """The figure is that of the files, and follows a post at once."""
    before = spool.stats().used_bytes
    await spool.accept(a_record("c", body=os.urandom(2 * MIB)))
    database, log = tmp_path / DATABASE_NAME, log_of(tmp_path / DATABASE_NAME)
    assert spool.stats().used_bytes >= before + 2 * MIB
    checkpointed(tmp_path, "PASSIVE")
    await spool.accept(a_record("d"))
    headroom = tmp_path / HEADROOM_NAME
    on_disk = database.stat().st_size + log.stat().st_size + headroom.stat().st_size
    assert abs(spool.stats().used_bytes - on_disk) < MIB
    spool.reserve_staging(5 * MIB)
    assert abs(spool.stats().used_bytes - on_disk - 5 * MIB) < MIB
    spool.release_staging(5 * MIB)
    assert abs(spool.stats().used_bytes - on_disk) < MIB


async def test_staging_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    """A staging file is reserve before it is written."""
    async with opened(tmp_path, max_bytes=20 * MIB) as spool:
        with pytest.raises(SpoolFull):
            spool.reserve_staging(20 * MIB)


@pytest.mark.parametrize(
    ("limit", "cap"), [(MIB, 4 * MIB), (80 * MIB, 10 * MIB), (10 << 30, 64 * MIB)], ids=["tiny", "small", "usual"]
)
def test_the_log_takes_a_share_of_a_small_spool(limit: int, cap: int) -> None:
    """The log's cap is an eighth of the quota, between 4 and 64 MiB."""
    assert Start(DestinationIds("", {}, {}), limit, 1).log_cap_bytes == cap

"""What is on its way into the spool when its call is erased is erased with it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from spool.live_calls import HeardCall, NewTurn
from spool.records import Delivered, Fragment, NewSpans, OwnedCall, PartProgress, RetryAt, UploadProgress
from spool.store import Spool
from tests.spool.spool_parts import DETAIL, ENDPOINT, NOW, a_record, opened

LARGE, CALL = 64 << 20, OwnedCall("call")
TABLES = ("records", "chunks", "deliveries WHERE state < 4", "trace_rows", "live_turns")


async def rows(spool: Spool) -> int:
    """How many rows there are that hold what was said, or owe it to somebody."""
    counts = [await spool.reader.ask(f"SELECT count(*) FROM {each}") for each in TABLES]
    return sum(count for ((count,),) in counts)


async def erase(spool: Spool) -> None:
    """As an order does it."""
    await spool.erasures.order([CALL])
    await spool.erasures.give_up(CALL)
    await spool.erasures.forget([CALL])
    await spool.erasures.finish([CALL])
    assert await spool.erasures.wipe()


def a_large_record(spool: Spool) -> Awaitable[object]:
    return spool.accept(a_record("call", DETAIL, fragments={Fragment.BODY: [os.urandom(LARGE)]}))


def large_spans(spool: Spool) -> Awaitable[object]:
    return spool.traces.add([NewSpans(bytes(16), os.urandom(LARGE), 1, "call")], None, "")


def large_turns(spool: Spool) -> Awaitable[object]:
    turns = tuple(NewTurn(f"{number}", number, os.urandom(1 << 20)) for number in range(3))
    return spool.live.hear(HeardCall("call", "", turns=turns), None)


@pytest.mark.parametrize("refuse_erased", [1_000, None], ids=["later posts refused", "later posts accepted"])
@pytest.mark.parametrize("post", [a_large_record, large_spans, large_turns])
async def test_what_was_on_its_way_is_erased(
    tmp_path: Path, post: Callable[[Spool], Awaitable[object]], refuse_erased: int | None
) -> None:
    """A post that was let in before the order may be compressed and written for seconds after it."""
    async with opened(tmp_path, refuse_erased=refuse_erased) as spool:
        posting = asyncio.ensure_future(post(spool))
        await asyncio.sleep(0)
        await erase(spool)
        await posting
        assert await rows(spool) == 0


async def test_what_is_confirmed_after_it_was_given_up_counts_as_delivered(tmp_path: Path) -> None:
    """An attempt that was under way arrives all the same: whoever erases must know where something lies."""
    async with opened(tmp_path) as spool:
        (delivery,) = (await spool.accept(a_record("call"))).ready
        await spool.erasures.order([CALL])
        assert await spool.erasures.give_up(CALL) == [delivery.key]
        assert await spool.erasures.delivered(CALL) == []
        await spool.settle(delivery, Delivered(), took=5)
        assert await spool.erasures.delivered(CALL) == [(ENDPOINT, 1)]
        assert spool.stats().unaccounted == 0


async def test_an_attempt_that_outlasts_its_record_leaves_nothing(tmp_path: Path) -> None:
    """What an endpoint answers about a call that is erased is about nobody any more."""
    async with opened(tmp_path) as spool:
        (delivery,) = (await spool.accept(a_record("call"))).ready
        await erase(spool)
        await spool.settle(delivery, RetryAt(NOW, "HTTP 503: call is unknown"), took=5)
        assert await spool.reader.ask("SELECT count(*) FROM attempts") == [(0,)]


async def test_the_upload_of_an_erased_call_is_forgotten(tmp_path: Path) -> None:
    """The key of its object names the call; the bucket was asked for all uploads of it."""
    async with opened(tmp_path) as spool:
        (delivery,) = (await spool.accept(a_record("call"))).ready
        await spool.uploader_state.begin_upload(UploadProgress(delivery.key, "bucket", "calls/call/1", "id", 5 << 20))
        await spool.uploader_state.write_parts(delivery.key, {1: PartProgress(5, bytes(16))})
        await erase(spool)
        for table in ("multiparts", "multipart_parts"):
            assert await spool.reader.ask(f"SELECT count(*) FROM {table}") == [(0,)]

"""Tokens: kept while something needs them, and their bytes gone from every file when nothing does (promise 9)."""

import asyncio
import re
from pathlib import Path

import pytest

from spool.db.connection import log_of
from spool.db.transaction import Transaction
from spool.directory import DATABASE_NAME
from spool.records import Delivered, Hold
from spool.store import Spool
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    ENDPOINT,
    HOUR,
    NOW,
    Clock,
    a_record,
    becomes,
    checkpointed,
    due,
    maintained,
    opened,
    rows,
    split_fragments,
    write,
)

TOKENS = [
    "plain-secret-4711",
    "geheim-äöü-schlüssel",
    "with\0nul-behind-it",
    "x" * 300,
    "L" * 40_000 + "end-of-a-long-secret-4711",
]


def found_in(directory: Path, token: str) -> list[str]:
    """The files of a spool that hold 24 bytes of the token's end, or what is behind a NUL in it."""
    wanted = {token.encode()[-24:], token.rpartition("\0")[2].encode()[-24:]}
    files = [path for path in directory.iterdir() if path.is_file()]
    return [path.name for path in files if any(part in path.read_bytes() for part in wanted)]


@pytest.mark.parametrize("token", TOKENS, ids=["plain", "letters", "nul", "long", "longer than two pages"])
async def test_a_token_is_gone_with_the_last_delivery(spool: Spool, tmp_path: Path, token: str) -> None:
    """Its bytes are in the spool while a delivery needs it, and after a checkpoint in none of its files."""
    await spool.accept(a_record("c", CORE, DETAIL, fragments=split_fragments(), token=token))
    (core,) = await due(spool)
    (detail,) = await spool.settle(core, Delivered())

    def only_in_the_database() -> bool:
        checkpointed(tmp_path)  # what the background writes may bring its page into the log once more
        return found_in(tmp_path, token) == [DATABASE_NAME]

    await becomes(only_in_the_database)
    assert await spool.token(detail.record.token_id or 0) == token
    await spool.settle(detail, Delivered())
    checkpointed(tmp_path)
    assert found_in(tmp_path, token) == []
    assert await spool.token(detail.record.token_id or 0) is None


async def test_moved_rows_leave_no_copies(spool: Spool, tmp_path: Path) -> None:
    """Tokens that fill several pages are gone after the next round of maintenance; those still needed are there."""
    tokens = [f"secret-{'s' * 90}-{number:04}-of-many-tokens" for number in range(700)]
    for start in range(0, len(tokens), 100):
        batch = range(start, start + 100)
        await asyncio.gather(*(spool.accept(a_record(f"c{number}", token=tokens[number])) for number in batch))
    deliveries = await due(spool)
    assert numbers_in(tmp_path) == set(range(700))
    await asyncio.gather(*(spool.settle(delivery, Delivered()) for delivery in deliveries[::2]))
    await maintained(spool)
    checkpointed(tmp_path)
    assert numbers_in(tmp_path).isdisjoint(range(0, 700, 2))
    assert [await spool.token(one.record.token_id or 0) for one in deliveries[1::2]] == tokens[1::2]
    await asyncio.gather(*(spool.settle(delivery, Delivered()) for delivery in deliveries[1::2]))
    await maintained(spool)
    checkpointed(tmp_path)
    assert numbers_in(tmp_path) == set()


def numbers_in(directory: Path) -> set[int]:
    """The numbers of the many tokens that any file of a spool still holds the end of."""
    files = [path.read_bytes() for path in directory.iterdir() if path.is_file()]
    return {int(number) for file in files for number in re.findall(rb"(\d{4})-of-many-tokens", file)}


@pytest.mark.slow
async def test_a_log_at_rest_is_emptied(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody writes for a moment, the log is emptied, and deleted tokens are gone from it."""
    accepted = await spool.accept(a_record(token="plain-secret-4711"))
    await spool.settle(accepted.ready[0], Delivered())
    spool._maintaining.cancel()
    await becomes(lambda: log_of(tmp_path / DATABASE_NAME).stat().st_size == 0)
    assert found_in(tmp_path, "plain-secret-4711") == []


async def test_a_token_is_shared_and_counted(spool: Spool, tmp_path: Path) -> None:
    """Posts with the same token share its row, which goes with the last of them."""
    ready = [(await spool.accept(a_record(f"c{number}", token="same"))).ready[0] for number in range(3)]
    assert rows(tmp_path, "SELECT uses FROM tokens") == [(3,)]
    for left, delivery in zip((2, 1), ready, strict=False):
        await spool.settle(delivery, Delivered())
        assert rows(tmp_path, "SELECT uses FROM tokens") == [(left,)]
    await spool.settle(ready[2], Delivered())
    assert rows(tmp_path, "SELECT * FROM tokens") == []


async def test_an_id_never_names_another_token(spool: Spool) -> None:
    """Who remembers the id of a token that is gone does not find the next agent's token under it."""
    first = (await spool.accept(a_record("a", token="first"))).ready[0]
    await spool.settle(first, Delivered())
    second = (await spool.accept(a_record("b", token="second"))).ready[0]
    assert second.record.token_id != first.record.token_id
    assert await spool.token(first.record.token_id or 0) is None


async def test_a_rolled_back_use_is_no_use(spool: Spool, tmp_path: Path) -> None:
    """A group that fails leaves neither a token nor the memory of its id."""

    def use_and_fail(transaction: Transaction) -> None:
        transaction.tokens.use(transaction.connection, "shared")
        raise LookupError("not today")

    results = await asyncio.gather(
        spool.accept(a_record("a", token="shared")),
        write(spool, use_and_fail),
        spool.accept(a_record("b", token="shared")),
        return_exceptions=True,
    )
    assert isinstance(results[1], LookupError)
    assert rows(tmp_path, "SELECT uses FROM tokens") == [(2,)]
    with pytest.raises(LookupError):
        await write(spool, _use_another)
    accepted = await spool.accept(a_record("c", token="another"))
    assert await spool.token(accepted.ready[0].record.token_id or 0) == "another"


def _use_another(transaction: Transaction) -> None:
    transaction.tokens.use(transaction.connection, "another")
    raise LookupError("not today")


async def test_a_duplicate_uses_no_token(spool: Spool, tmp_path: Path) -> None:
    """Only what is stored counts as a use."""
    digest = bytes(32)
    await spool.accept(a_record("c", digest=digest, token="one"))
    duplicate = await spool.accept(a_record("c", digest=digest, token="two"))
    assert duplicate.duplicate
    assert rows(tmp_path, "SELECT value, uses FROM tokens") == [("one", 1)]


async def test_tokens_in_memory_are_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many agents post, only so many ids are remembered, and forgotten ones are looked up again."""
    monkeypatch.setattr("spool.db.tokens._KNOWN_TOKENS", 4)
    for number in range(10):
        await spool.accept(a_record(f"c{number}", token=f"token-{number}"))
    assert len(spool._writer.tokens._ids) == len(spool._writer.tokens._values) <= 4
    again = await spool.accept(a_record("again", token="token-0"))
    assert await spool.token(again.ready[0].record.token_id or 0) == "token-0"


@pytest.mark.parametrize(("token", "reads"), [("short", 0), ("x" * 3000, 1)])
async def test_a_delivery_reads_no_token_that_was_just_posted(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, token: str, reads: int
) -> None:
    """A token of usual length that this process was given costs a delivery no trip to the database."""
    accepted = await spool.accept(a_record(token=token))
    asked: list[int] = []
    read = spool.reader.token

    async def counted(token_id: int) -> str | None:
        asked.append(token_id)
        return await read(token_id)

    monkeypatch.setattr(spool.reader, "token", counted)
    assert await spool.token(accepted.ready[0].record.token_id or 0) == token
    assert len(asked) == reads


async def test_a_held_delivery_keeps_its_token(spool: Spool) -> None:
    """What is set aside because of its token still has it when it is released."""
    delivery = (await spool.accept(a_record(token="refused"))).ready[0]
    await spool.settle(delivery, Hold("401", delivery.record.token_id))
    (freed,) = await spool.release(ENDPOINT, delivery.record.token_id)
    assert await spool.token(freed.record.token_id or 0) == "refused"


async def test_an_upload_keeps_its_token_until_it_is_used(spool: Spool, tmp_path: Path) -> None:
    """The token given with an upload address becomes that of its record, with no use left over."""
    await spool.register_upload(b"hash", "key", "c", "secret", NOW + HOUR)
    upload = await spool.find_upload(b"hash")
    assert upload is not None
    assert (upload.token, upload.record_uid) == ("secret", None)
    accepted = await spool.accept(a_record("c", token=upload.token, upload_key_hash=b"hash"))
    assert rows(tmp_path, "SELECT uses FROM tokens") == [(1,)]
    used = await spool.find_upload_by_s3_key("key")
    assert used is not None
    assert (used.token, used.record_uid, used.digest) == (None, accepted.uid, accepted.digest)
    await spool.settle(accepted.ready[0], Delivered())
    assert rows(tmp_path, "SELECT * FROM tokens") == []


async def test_an_upload_that_was_a_duplicate_is_used_too(spool: Spool, tmp_path: Path) -> None:
    """A one-time address is spent by a duplicate as by anything else, and names the original."""
    original = await spool.accept(a_record("c", digest=bytes(32)))
    await spool.register_upload(b"hash", "key", "c", "secret", NOW + HOUR)
    assert (await spool.accept(a_record("c", digest=bytes(32), upload_key_hash=b"hash"))).duplicate
    upload = await spool.find_upload(b"hash")
    assert upload is not None
    assert upload.record_uid == original.uid
    assert rows(tmp_path, "SELECT * FROM tokens") == []


async def test_what_expired_unused_takes_its_token_along(spool: Spool, clock: Clock, tmp_path: Path) -> None:
    """An address that nobody used for a day after its time is deleted, and so is its token."""
    await spool.register_upload(b"hash", "key", "c", "secret", NOW + HOUR)
    clock.now += 26 * HOUR
    await spool._maintenance.round()
    assert await spool.find_upload(b"hash") is None
    assert rows(tmp_path, "SELECT * FROM tokens") == []


async def test_reopening_finds_tokens_again(tmp_path: Path) -> None:
    """A token is there after a restart as long as its record is."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record(token="secret"))
    async with opened(tmp_path) as spool:
        (delivery,) = await due(spool)
        assert await spool.token(delivery.record.token_id or 0) == "secret"
        await spool.settle(delivery, Delivered())
    assert rows(tmp_path, "SELECT * FROM tokens") == []

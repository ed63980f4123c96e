"""Rekeying: another main key, and a spool that lay plain; killed at every write point, it loses nothing and goes on."""

import asyncio
import base64
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from spool import keys as spool_keys
from spool.admin.rekey import Rekeyed
from spool.db import write_connection
from spool.db.connection import rewrite
from spool.directory import DATABASE_NAME
from spool.errors import KeyUnavailable
from spool.fsck import Severity, check
from spool.keys import NEW_NAME, KeyRing, SpoolKeys
from spool.payload.frames import is_sealed
from spool.records import Fragment, Lane, NewSpans
from spool.store import Spool
from tests.budget import budgeted
from tests.spool.spool_parts import CORE, DETAIL, OBJECT, a_record, decoded, due, opened, rows, split_fragments

TOKEN = "agents-own-key-1234567890"
LARGE = os.urandom(5 << 20)
SAID = b"whispered-4929000000006 "


def a_ring(*letters: str) -> KeyRing:
    return KeyRing.parse(base64.b64encode(letter.encode() * 32).decode() for letter in letters)


async def fill(directory: Path, ring: KeyRing) -> None:
    """Small ones, one of several transactions, a token, and spans."""
    async with opened(directory, keys=ring) as spool:
        for number in range(3):
            await spool.accept(a_record(f"small-{number}", body=SAID * 10 + str(number).encode(), token=TOKEN))
        await spool.accept(a_record("large", CORE, DETAIL, OBJECT, fragments=split_fragments(LARGE)))
        await spool.traces.add([NewSpans(b"t" * 16, SAID, 1, None, None, False)], TOKEN, "")


async def rekeyed(spool: Spool) -> Rekeyed:
    async with aclosing(spool.rekeying.steps()) as steps:
        (done,) = [step async for step in steps if isinstance(step, Rekeyed)]
        return done


async def all_is_there(directory: Path, ring: KeyRing) -> None:
    assert [one for one in check(directory) if one.severity is not Severity.NOTE] == []
    async with opened(directory, keys=ring) as spool:
        for delivery in await due(spool):
            if delivery.record.call_id == "large":
                continue
            frames = [frame async for frame in spool.reader.frames(delivery.record, Fragment.BODY)]
            assert decoded(b"".join(frames)) == SAID * 10 + delivery.record.call_id[-1:].encode()
            assert delivery.record.token_id is not None
            assert await spool.reader.token(delivery.record.token_id) == TOKEN
        (large,) = await due(spool, Lane.DETAIL, destination="bucket")
        frames = [frame async for frame in spool.reader.frames(large.record, Fragment.REST)]
        assert decoded(b"".join(frames)) == LARGE
        assert [row.data async for row in spool.traces.rows(b"t" * 16, "")] == [SAID]


def nothing_is_plain(directory: Path) -> None:
    assert all(is_sealed(frame) for (frame,) in rows(directory, "SELECT frame FROM chunks"))
    assert all(is_sealed(frame) for (frame,) in rows(directory, "SELECT frame FROM trace_rows"))
    assert rows(directory, "SELECT count(*) FROM tokens WHERE key_epoch IS NULL") == [(0,)]


async def test_what_lay_plain_is_encrypted(tmp_path: Path) -> None:
    """Afterwards nothing in the spool is plain, all of it can be delivered, and a repetition has nothing to do."""
    await fill(tmp_path, KeyRing())
    async with opened(tmp_path, keys=a_ring("n")) as spool:
        done = await rekeyed(spool)
        assert (done.records, done.tokens, done.spans) == (4, 1, 1)
        again = await rekeyed(spool)
        assert (again.records, again.tokens, again.spans) == (0, 0, 0)
    nothing_is_plain(tmp_path)
    await all_is_there(tmp_path, a_ring("n"))


async def test_nothing_plain_is_left_in_the_files(tmp_path: Path) -> None:
    """When the database was written anew, no byte of what lay plain is in it: neither frames nor tokens."""
    await fill(tmp_path, KeyRing())
    frames = [frame for (frame,) in rows(tmp_path, "SELECT frame FROM chunks ORDER BY chunk_id LIMIT 3")]
    async with opened(tmp_path, keys=a_ring("n")) as spool:
        await rekeyed(spool)
    rewrite(tmp_path / DATABASE_NAME)
    for path in tmp_path.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert TOKEN.encode() not in data, path
        assert SAID not in data, path
        for frame in frames:
            assert isinstance(frame, bytes)
            assert frame[20:60] not in data, path
    await all_is_there(tmp_path, a_ring("n"))


async def test_another_main_key_takes_over(tmp_path: Path) -> None:
    """After a rekeying the old key is not needed, nor does it open anything; before, both are."""
    await fill(tmp_path, a_ring("o"))
    await all_is_there(tmp_path, a_ring("n", "o"))
    with pytest.raises(KeyUnavailable):
        await all_is_there(tmp_path, a_ring("n"))
    async with opened(tmp_path, keys=a_ring("n", "o")) as spool:
        done = await rekeyed(spool)
        assert done.epochs >= 1
        assert done.key_id == a_ring("n").keys[0].key_id.hex()
    with pytest.raises(KeyUnavailable):
        await all_is_there(tmp_path, a_ring("o"))
    await all_is_there(tmp_path, a_ring("n"))


async def test_without_a_key_it_says_what_to_set(tmp_path: Path) -> None:
    """There is nothing to bring anything under."""
    async with opened(tmp_path) as spool:
        with pytest.raises(KeyUnavailable, match="CALLSPOOL_SPOOL_KEY_FILE"):
            await rekeyed(spool)


async def test_a_large_record_can_be_read_while_it_is_encrypted(tmp_path: Path) -> None:
    """Whoever began to read it plain reads on, for each frame says what it is."""
    await fill(tmp_path, KeyRing())
    async with opened(tmp_path, keys=a_ring("n")) as spool:
        (large,) = await due(spool, Lane.DETAIL, destination="bucket")
        frames = spool.reader.frames(large.record, Fragment.REST)
        read = [await anext(frames)]
        await rekeyed(spool)
        read += [frame async for frame in frames]
        assert decoded(b"".join(read)) == LARGE


def killed_at(directory: Path, ring: KeyRing, number: int) -> bool:
    """Rekey in a process that is killed at this write point; returns whether it reached it."""
    child = os.fork()
    if child == 0:
        left = number

        def hear(_point: write_connection.WritePoint, _group: Sequence[object]) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        async def run() -> None:
            async with opened(directory, keys=ring) as spool:
                await rekeyed(spool)

        write_connection.hook = hear
        asyncio.run(run())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


EACH = budgeted(small=3, full=1)


@pytest.mark.parametrize(
    ("before", "first", "every"),
    [
        pytest.param(KeyRing(), 0, 10, id="plain, some"),
        pytest.param(a_ring("o"), 5, 10, id="old key, others"),
        pytest.param(KeyRing(), 0, EACH, id="plain, all", marks=pytest.mark.prove),
        pytest.param(a_ring("o"), 0, EACH, id="old key, all", marks=pytest.mark.prove),
    ],
)
def test_a_kill_at_any_write_point_loses_nothing(tmp_path: Path, before: KeyRing, first: int, every: int) -> None:
    """After each kill all can be read with the keys of before and after; however often, it comes to its end."""
    asyncio.run(fill(tmp_path, before))
    ring = KeyRing((*a_ring("n").keys, *before.keys))
    kills, number = 0, first
    while killed_at(tmp_path, ring, number):
        kills += 1
        number += every
        asyncio.run(all_is_there(tmp_path, ring))
    assert kills > 1
    nothing_is_plain(tmp_path)
    asyncio.run(all_is_there(tmp_path, a_ring("n")))


STEPS = ("_created", "_write_all", "rename", "_sync_directory", "_write_all again")
"""Of writing the keys anew, in their order: the new file takes the old one's place, which is overwritten at the end."""


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_of_writing_the_keys_leaves_one_file_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whichever file has the name is whole; what was written of another one is erased, and the next run goes on."""
    keys = SpoolKeys.open(tmp_path, a_ring("o"))
    wrapped = keys.wrap(b"s" * 32, b"context")
    keys.close()
    keys = SpoolKeys.open(tmp_path, a_ring("n", "o"))
    done = []

    def until_killed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            done.append(f"{name} again" if name in done else name)
            if done[-1] == step:
                raise RuntimeError
            return original(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", until_killed("rename", Path.rename))
        for name in ("_created", "_write_all", "_sync_directory"):
            patched.setattr(spool_keys, name, until_killed(name, getattr(spool_keys, name)))
        with pytest.raises(RuntimeError):
            keys.rewrap()
    assert tuple(done) == STEPS[: STEPS.index(step) + 1]
    renamed = STEPS.index(step) > STEPS.index("rename")
    assert (tmp_path / NEW_NAME).exists() == (step in {"_write_all", "rename"})
    keys = SpoolKeys.open(tmp_path, a_ring("n") if renamed else a_ring("n", "o"))
    assert not (tmp_path / NEW_NAME).exists()
    assert keys.unwrap(wrapped, b"context") == b"s" * 32
    assert keys.rewrap() == (0 if renamed else 1)
    keys.close()
    keys = SpoolKeys.open(tmp_path, a_ring("n"))
    assert keys.unwrap(wrapped, b"context") == b"s" * 32
    keys.close()

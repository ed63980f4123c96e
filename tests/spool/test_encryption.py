"""Encryption of payloads, tokens and spans, and what is left of them when their records have ended."""

import base64
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from spool.errors import CorruptPayload, KeyUnavailable, SpoolUnavailable
from spool.fsck import Kind, Severity, check
from spool.keys import EPOCH_USES, KEYS_NAME, KeyRing, SpoolKeys, WrappedKey, epochs_in
from spool.live_calls import HeardCall, NewTurn
from spool.payload.frames import Frame, FrameEncoder, Place, Seal, is_sealed
from spool.records import Delivered, Delivery, Fragment, NewSpans, OwnedCall
from spool.salvage.model import Outcome
from spool.store import Spool
from tests.spool.salvaged_spools import bring
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    HOUR,
    Clock,
    a_record,
    becomes,
    decoded,
    discard,
    due,
    looked_into,
    opened,
    payload,
    rows,
    split_fragments,
    without_maintenance,
    write,
)

SECRET = b"whispered-4929000000006"
TOKEN = "agents-own-key-1234567890"


def a_ring(*values: bytes) -> KeyRing:
    return KeyRing.parse(base64.b64encode(value).decode() for value in values)


RING = a_ring(b"k" * 32)


async def uncached(spool: Spool, delivery: Delivery, fragment: Fragment = Fragment.BODY) -> bytes:
    """What lies on the disk, decoded."""
    frames = spool.reader.frames(delivery.record, fragment)
    return decoded(b"".join([frame async for frame in frames]))


def data_keys(directory: Path, ring: KeyRing) -> Iterator[int]:
    """The numbers of the records whose data key somebody with the main key can unwrap."""
    keys = SpoolKeys.open(directory, ring)
    found = rows(directory, "SELECT record_id, key_epoch FROM records WHERE key_epoch IS NOT NULL")
    yield from (record_id for record_id, epoch in found if epoch in keys.numbers)
    keys.close()


async def test_what_is_stored_is_encrypted_and_what_is_read_is_what_came(tmp_path: Path) -> None:
    """Payloads and tokens lie encrypted, and come back as they were, after a restart, too."""
    body = b'{"call_id": "call", "said": "' + SECRET + b'"}'
    large = os.urandom(3 << 20)
    async with opened(tmp_path, keys=RING) as spool:
        small = await spool.accept(a_record("small", body=body, token=TOKEN))
        assert decoded(await payload(spool, small)) == body  # from memory
        await spool.accept(a_record("large", CORE, DETAIL, fragments=split_fragments(large)))
        token_id = small.ready[0].record.token_id
        assert token_id is not None
    stored = [frame for (frame,) in rows(tmp_path, "SELECT frame FROM chunks")]
    assert len(stored) == 6
    assert all(is_sealed(frame) for frame in stored)
    assert TOKEN not in str(rows(tmp_path, "SELECT * FROM tokens"))
    async with opened(tmp_path, keys=RING) as spool:
        first, core = await due(spool)
        assert await uncached(spool, first) == body
        assert await uncached(spool, core, Fragment.BASE) == b'"base": 1'
        assert await uncached(spool, core, Fragment.REST) == large
        assert await spool.token(token_id) == TOKEN


async def test_sizes_are_those_of_the_frames_that_leave(tmp_path: Path) -> None:
    """`stored_bytes` is what an uploader reads, so that a length that it announces holds."""
    async with opened(tmp_path, keys=RING) as spool:
        accepted = await spool.accept(a_record("large", CORE, DETAIL, fragments=split_fragments(os.urandom(2 << 20))))
        record = accepted.ready[0].record
        for fragment, stored in record.fragments.items():
            frames = [frame async for frame in spool.reader.frames(record, fragment)]
            assert sum(map(len, frames)) == stored.stored_bytes


async def test_a_frame_counts_only_at_its_place() -> None:
    """A sealed frame opens only as the one that it was: not at another place, nor of another fragment or number."""
    seal, place = Seal.new(), Place(3, "rest", 1, 4)
    frame = seal.seal(FrameEncoder().frame(b"said"), place)
    assert decoded(seal.open(frame.data, place)) == b"said"
    for other in (Place(4, "rest", 1, 4), Place(3, "base", 1, 4), Place(3, "rest", 2, 4), Place(3, "rest", 1, 3)):
        with pytest.raises(CorruptPayload):
            seal.open(frame.data, other)
    with pytest.raises(CorruptPayload):
        Seal.new().open(frame.data, place)


async def test_frames_that_changed_places_are_refused(tmp_path: Path) -> None:
    """Whoever can write to the database can neither exchange two frames of a payload nor leave some out."""
    large = os.urandom(3 << 20)
    async with opened(tmp_path, keys=RING) as spool:
        await spool.accept(a_record("large", CORE, DETAIL, fragments=split_fragments(large)))
    with looked_into(tmp_path) as connection:
        (first,) = connection.execute("SELECT first_chunk FROM records").fetchone()
        connection.execute("UPDATE chunks SET chunk_id = -1 WHERE chunk_id = ?", (first + 2,))
        connection.execute("UPDATE chunks SET chunk_id = ? WHERE chunk_id = ?", (first + 2, first + 3))
        connection.execute("UPDATE chunks SET chunk_id = ? WHERE chunk_id = -1", (first + 3,))
    connection.close()
    async with opened(tmp_path, keys=RING) as spool:
        (core,) = await due(spool)
        with pytest.raises(CorruptPayload, match="not what was encrypted there"):
            await uncached(spool, core, Fragment.REST)


async def test_payloads_that_changed_records_are_refused(tmp_path: Path) -> None:
    """Whoever can write to the database cannot give one call's payload, with its key, to another call."""
    async with opened(tmp_path, keys=RING) as spool:
        for name in ("mine", "yours"):
            await spool.accept(a_record(name, body=name.encode()))
    with looked_into(tmp_path) as connection:
        mine, yours = connection.execute("SELECT first_chunk, key_epoch, payload_key FROM records").fetchall()
        change = (
            "UPDATE records SET first_chunk = ?, key_epoch = ?, payload_key = ?, checksum = NULL WHERE record_id = ?"
        )
        connection.execute(change, (*yours, 1))
        connection.execute(change, (*mine, 2))
    connection.close()
    async with opened(tmp_path, keys=RING) as spool:
        for delivery in await due(spool):
            with pytest.raises(CorruptPayload, match="cannot be decrypted"):
                await uncached(spool, delivery)


async def test_no_key_encrypts_two_payloads_and_no_nonce_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AES-GCM is broken where a key meets a nonce again: each payload has a key, each frame a nonce of it."""
    met: list[tuple[bytes, bytes]] = []
    original = Seal.seal

    def seal(self: Seal, frame: Frame, place: Place, *, keep_plain: bool = False) -> Frame:
        met.append((self.key, place.nonce))
        return original(self, frame, place, keep_plain=keep_plain)

    monkeypatch.setattr(Seal, "seal", seal)
    async with opened(tmp_path, keys=RING) as spool:
        for number in range(20):
            await spool.accept(a_record(f"call-{number}", body=b"the same body"))
        await spool.accept(a_record("large", CORE, DETAIL, fragments=split_fragments(os.urandom(3 << 20))))
        await spool.traces.add([NewSpans(b"t" * 16, b"{}", 1, None, None, False)] * 2, None, "")
    assert len(met) == 20 + 5 + 2
    assert len(set(met)) == len(met)


async def test_a_key_is_gone_when_its_record_has_ended(tmp_path: Path) -> None:
    """After a shredding nothing unwraps the keys of what ended, whatever copies there are; the rest is readable."""
    body = b'{"call_id": "call", "said": "' + SECRET + b'"}'
    async with opened(tmp_path, keys=RING) as spool:
        ends, stays = [await spool.accept(a_record(name, body=body, token=TOKEN)) for name in ("ends", "stays")]
        ended, stayed = ends.ready[0], stays.ready[0]
        (before,) = await spool.reader.ask(
            "SELECT key_epoch, payload_key FROM records WHERE record_id = ?", (ended.record.record_id,)
        )
        copy = WrappedKey(*before)
        context = b"record " + ended.record.uid.encode()
        assert spool._writer.keys.unwrap(copy, context)
        await spool.settle(ended, Delivered())
        await spool._shredder.shred()
        with pytest.raises(CorruptPayload, match="no longer exists"):
            spool._writer.keys.unwrap(copy, context)
        assert await uncached(spool, stayed) == body
        assert stayed.record.token_id is not None
        assert await spool.reader.token(stayed.record.token_id) == TOKEN
        assert list(data_keys(tmp_path, RING)) == [stayed.record.record_id]
    keys = SpoolKeys.open(tmp_path, RING)
    assert copy.epoch not in keys.numbers
    keys.close()


async def test_a_kill_before_the_shredding_is_made_up_for(tmp_path: Path) -> None:
    """That something ended is on the disk with its epoch: the next start shreds it."""
    async with opened(tmp_path, keys=RING) as spool:
        await spool.accept(a_record("stays"))
    keys = SpoolKeys.open(tmp_path, RING)
    (epoch,) = keys.numbers
    keys.ended([epoch])
    keys.close()
    async with opened(tmp_path, keys=RING) as spool:
        await becomes(lambda: epoch not in spool._writer.keys.numbers)
        (stayed,) = await due(spool)
        assert await uncached(spool, stayed) == b'{"call_id": "call"}'


async def test_a_spool_in_which_nothing_is_left_needs_no_key(tmp_path: Path) -> None:
    """When all has been delivered, a clean stop leaves no key, and encryption can be switched off."""
    async with opened(tmp_path, keys=RING) as spool:
        accepted = await spool.accept(a_record(token=TOKEN))
        await spool.settle(accepted.ready[0], Delivered())
        assert epochs_in(tmp_path / KEYS_NAME)
    assert epochs_in(tmp_path / KEYS_NAME) == set()
    async with opened(tmp_path) as spool:
        accepted = await spool.accept(a_record("plain"))
        assert await uncached(spool, accepted.ready[0]) == b'{"call_id": "call"}'
        assert not any(is_sealed(frame) for (frame,) in rows(tmp_path, "SELECT frame FROM chunks"))


async def test_a_wrong_or_missing_key_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    """The error names the key that is wanted, and where it belongs; with it, all is there."""
    async with opened(tmp_path, keys=RING) as spool:
        await spool.accept(a_record())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    wanted = RING.keys[0].key_id.hex()
    for ring in (KeyRing(), a_ring(b"x" * 32)):
        with pytest.raises(KeyUnavailable, match=rf"{wanted}.*CALLSPOOL_SPOOL_KEY_FILE"):
            await _open(tmp_path, ring)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    async with opened(tmp_path, keys=RING) as spool:
        assert len(await due(spool)) == 1


async def test_a_start_that_fails_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume can be unmounted after it, and the next start may try again."""

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("spool.db.write_connection.connect_writer", fail)
    with pytest.raises(SpoolUnavailable):
        await _open(tmp_path, RING)
    assert str(tmp_path / KEYS_NAME) not in {file.path for file in psutil.Process().open_files()}


async def test_lost_keys_are_named_at_the_start(tmp_path: Path) -> None:
    """Where the file of keys is not there, nothing is started that would make dead letters of everything."""
    async with opened(tmp_path, keys=RING) as spool:
        await spool.accept(a_record())
    (tmp_path / KEYS_NAME).rename(tmp_path / "elsewhere")
    with pytest.raises(KeyUnavailable, match="restore it"):
        await _open(tmp_path, RING)
    assert not (tmp_path / KEYS_NAME).exists()
    (tmp_path / "elsewhere").rename(tmp_path / KEYS_NAME)
    async with opened(tmp_path, keys=RING) as spool:
        assert len(await due(spool)) == 1


async def test_encryption_can_be_switched_on(tmp_path: Path) -> None:
    """Old records stay readable beside encrypted ones."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("old", body=b"old", token=TOKEN))
    async with opened(tmp_path, keys=RING) as spool:
        await spool.accept(a_record("new", body=b"new", token=TOKEN))
        old, new = await due(spool)
        assert (await uncached(spool, old), await uncached(spool, new)) == (b"old", b"new")
        assert old.record.token_id is not None
        assert await spool.token(old.record.token_id) == TOKEN


async def test_more_records_than_one_epoch_wraps(tmp_path: Path) -> None:
    """An epoch wraps a bounded number of keys, and the file of keys does not grow with what has ended."""
    keys = SpoolKeys.open(tmp_path, RING)
    wrapped = [keys.wrap(b"s" * 32, b"context") for _ in range(2 * EPOCH_USES + 1)]
    assert len({one.epoch for one in wrapped}) == 3
    size = (tmp_path / KEYS_NAME).stat().st_size
    for _ in range(2000):
        epoch = keys.wrap(b"s" * 32, b"context").epoch
        keys.ended([epoch])
        keys.destroy(keys.retire())
    assert (tmp_path / KEYS_NAME).stat().st_size == size
    assert keys.unwrap(wrapped[0], b"context") == b"s" * 32
    keys.close()


async def test_spans_are_encrypted(tmp_path: Path) -> None:
    """Spans of open traces lie encrypted, and come back as they were."""
    new = NewSpans(b"t" * 16, SECRET * 10, 1, "call", None, False)
    async with opened(tmp_path, keys=RING) as spool:
        await spool.traces.add([new], TOKEN, "")
        assert [row.data async for row in spool.traces.rows(b"t" * 16, "")] == [SECRET * 10]
        await write(spool, lambda transaction: transaction.keys.ended(transaction.keys.numbers))
        await spool._shredder.shred()
        assert [row.data async for row in spool.traces.rows(b"t" * 16, "")] == [SECRET * 10]
    ((frame,),) = rows(tmp_path, "SELECT frame FROM trace_rows")
    assert is_sealed(frame)


async def _open(directory: Path, ring: KeyRing) -> None:
    async with opened(directory, keys=ring):
        pass


async def test_turns_of_live_calls_are_encrypted_until_their_call_ends(tmp_path: Path) -> None:
    """What was said and what the agent says of its call; what is replaced, and an ended call, are gone."""
    said = HeardCall("call", "", about=b'"number":"' + SECRET + b'"', turns=(NewTurn("#0", 0, b'"' + SECRET + b'"'),))
    async with opened(tmp_path, keys=RING) as spool:
        await spool.live.hear(said, TOKEN)
        stored = rows(tmp_path, "SELECT frame, key_epoch FROM live_turns")
        assert len(stored) == 2
        assert all(is_sealed(frame) and epoch is not None for frame, epoch in stored)
        before = {epoch for _, epoch in stored}
        await spool.live.hear(HeardCall("call", "", turns=(NewTurn("#0", 0, b'"other"'),)), None)
        await spool._shredder.shred()
        after = {epoch for _, epoch in rows(tmp_path, "SELECT frame, key_epoch FROM live_turns")}
        assert not before & after, "what was replaced is unreadable, and what stays has another key"
    async with opened(tmp_path, keys=RING) as spool:
        assert [turn async for turn in spool.live.turns("call", "")] == [b'"other"']
        assert await spool.live.about("call", "") == said.about
        await spool.accept(replace(a_record("call", event="call_ended", principal=""), ends_call=True))
        await spool._shredder.shred()
        assert not after & set(spool._writer.keys.numbers)


@pytest.mark.parametrize("adopt", [False, True], ids=["salvaged", "adopted"])
async def test_another_encrypted_spool_is_brought_over_with_its_key(tmp_path: Path, adopt: bool) -> None:
    """Payloads, tokens and spans come over, and are encrypted here anew; without the key nothing is touched."""
    there, here, large = tmp_path / "there", tmp_path / "here", os.urandom(3 << 20)
    async with opened(there, keys=RING) as spool:
        await spool.accept(a_record("small", body=b"small", token=TOKEN))
        await spool.accept(a_record("large", CORE, DETAIL, fragments=split_fragments(large)))
        await spool.traces.add([NewSpans(b"t" * 16, SECRET, 1, "call", None, False)], TOKEN, "")
    before = (there / KEYS_NAME).read_bytes()
    async with opened(here, keys=a_ring(b"x" * 32)) as spool:
        with pytest.raises(KeyUnavailable, match=RING.keys[0].key_id.hex()):
            await bring(spool, there, adopt=adopt)
    assert (there / KEYS_NAME).read_bytes() == before
    async with opened(here, keys=a_ring(b"x" * 32, b"k" * 32)) as spool:
        tally = await bring(spool, there, adopt=adopt)
        assert tally.outcomes[Outcome.IMPORTED] == 2
        assert tally.complete
        small, core = await due(spool)
        assert small.record.token_id is not None
        assert await spool.reader.token(small.record.token_id) == TOKEN
        assert await uncached(spool, small) == b"small"
        assert await uncached(spool, core, Fragment.REST) == large
        assert [row.data async for row in spool.traces.rows(b"t" * 16, "")] == [SECRET]
    assert all(is_sealed(frame) for (frame,) in rows(here, "SELECT frame FROM chunks"))
    assert TOKEN not in str(rows(here, "SELECT * FROM tokens"))


async def test_a_database_without_its_keys_is_not_taken_for_damaged(tmp_path: Path) -> None:
    """A file of keys that was left behind is asked for, and found later; one that is lost costs what it protected."""
    there, here = tmp_path / "there", tmp_path / "here"
    async with opened(there) as spool:
        await spool.accept(a_record("plain", body=b"plain"))
    async with opened(there, keys=RING) as spool:
        await spool.accept(a_record("small", body=b"small"))
    kept = (there / KEYS_NAME).rename(tmp_path / "kept")
    async with opened(here, keys=RING) as spool:
        with pytest.raises(KeyUnavailable, match=f"{KEYS_NAME}, which holds their keys, does not lie beside it"):
            await bring(spool, there)
        kept.rename(there / KEYS_NAME)
        tally = await bring(spool, there)
        assert tally.complete
        assert [await uncached(spool, one) for one in await due(spool)] == [b"plain", b"small"]
    (there / KEYS_NAME).write_bytes(b"")
    async with opened(tmp_path / "third", keys=RING) as spool:
        tally = await bring(spool, there)
        assert tally.outcomes == {Outcome.IMPORTED: 1, Outcome.DAMAGED: 1}


async def test_fsck_finds_keys_that_are_gone(tmp_path: Path) -> None:
    """A check needs no main key to see that call logs can be decrypted by nobody, whatever their checksums say."""
    async with opened(tmp_path, keys=RING) as spool:
        await without_maintenance(spool)
        await spool.accept(a_record("small", body=b"small", token=TOKEN))
        assert not check(tmp_path)
    assert not check(tmp_path)
    kept = (tmp_path / KEYS_NAME).read_bytes()
    (tmp_path / KEYS_NAME).write_bytes(bytes(len(kept)))
    (finding,) = check(tmp_path)
    assert (finding.kind, finding.severity) == (Kind.MISSING_KEY, Severity.ERROR)
    assert "1 call log, 1 token" in finding.text
    (tmp_path / KEYS_NAME).write_bytes(kept)
    (tmp_path / KEYS_NAME).chmod(0o644)
    assert {finding.kind for finding in check(tmp_path)} == {Kind.WRONG_MODE}


async def test_a_corrupt_database_takes_its_keys_along(tmp_path: Path) -> None:
    """The new database has keys of its own; what the old one held is salvaged with those in quarantine."""
    async with opened(tmp_path, keys=RING) as spool:
        await spool.accept(a_record("small", body=b"small", token=TOKEN))
        spool.directory.corruption.report("seen by a test")
    async with opened(tmp_path, keys=RING) as spool:
        (aside,) = spool.directory.quarantined
        assert (aside.directory / KEYS_NAME).exists()
        await bring(spool, aside.directory)
        (small,) = await due(spool)
        assert await uncached(spool, small) == b"small"


@pytest.mark.parametrize("ended", ["delivered", "discarded", "expired", "erased"])
async def test_every_end_of_a_record_is_the_end_of_its_key(tmp_path: Path, ended: str) -> None:
    """However a record ends, its epoch is marked, and a shredding destroys it."""
    clock = Clock()
    async with opened(tmp_path, keys=RING, clock=clock, expire_after=HOUR) as spool:
        await without_maintenance(spool)
        accepted = await spool.accept(a_record("call", body=SECRET))
        (epoch,) = spool._writer.keys.numbers
        match ended:
            case "delivered":
                await spool.settle(accepted.ready[0], Delivered())
            case "discarded":
                await discard(spool, [accepted.ready[0].key])
            case "expired":
                clock.now += 2 * HOUR
                await spool._maintenance.round()
            case _:
                await spool.erasures.give_up(OwnedCall("call"))
                await spool.erasures.wipe()
        await spool._shredder.shred()
        assert epoch not in spool._writer.keys.numbers

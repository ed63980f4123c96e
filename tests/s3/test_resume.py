"""Uploads that were interrupted: what is sent again, what is not, and what is given up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from bench.s3_server import Server
from spool.errors import CorruptPayload
from spool.records import Delivered as SettledAsDelivered
from spool.records import Delivery, Fragment, PartProgress, Record, UploadProgress
from tests.s3 import stored_objects
from tests.s3.recording_proxy import Answer, Fate, Proxy, Request, proxy_before
from tests.s3.stored_objects import DESTINATION, MEBIBYTE, Heard, MakeUploader, Store, client_of, objects, uploads
from uploaders.base import CallToErase, Delivered, Erased, Refused, RetryLater
from uploaders.s3.client import ListedPart
from uploaders.s3.options import ObjectEncoding, S3Options
from uploaders.s3.parts import PartCutter
from uploaders.s3.publish import finished_etag
from uploaders.s3.uploader import TIDY_SECONDS, S3Uploader

SIZE = 21 * MEBIBYTE
"""Of noise: 15.8 MiB of frames, which are four parts."""


def options(server: Server, bucket: str, **changes: Any) -> S3Options:
    """With the smallest parts, so that a few MiB are several."""
    return stored_objects.options(server, bucket, **({"part_bytes": 5 * MEBIBYTE} | changes))


@pytest.fixture
async def proxied(weed: Server) -> AsyncIterator[Proxy]:
    async with proxy_before(weed.port) as proxy:
        yield proxy


def lose(condition: Callable[[Request], bool]) -> Callable[[Request], Fate]:
    """Lose every answer to a request that the condition holds for; the HTTP client may repeat one by itself."""
    return lambda request: Fate.LOSE_ANSWER if condition(request) else Fate.PASS


@pytest.mark.parametrize("encoding", ObjectEncoding)
async def test_a_second_attempt_sends_only_what_is_missing(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, heard: Heard, encoding: str | None
) -> None:
    """A part that the server refused is sent again, those that it has are not."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, encoding=encoding, parts_at_once=1))
    proxied.decide = lambda request: Answer(500, "InternalError") if request.part == 3 else Fate.PASS
    first = await uploader.deliver(delivery)
    assert isinstance(first, RetryLater)
    assert proxied.parts == [1, 2, 3]
    proxied.decide = lambda _: Fate.PASS
    assert isinstance(await uploader.deliver(delivery), Delivered)
    assert proxied.parts[3:5] == [3, 4]
    assert 1 not in proxied.parts[3:]
    assert 2 not in proxied.parts[3:]
    assert heard.resumed == 2
    assert [repeated for _, repeated in heard.parts][2] is True
    assert len(await objects(weed, bucket)) == 1
    assert await uploads(weed, bucket) == []


async def test_of_an_erased_call_no_part_is_left_at_the_server(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """Parts of an upload that was not completed are no object, and are what the call said; others' uploads go on."""
    gone, stays = await store.large(SIZE), await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, parts_at_once=1))
    proxied.decide = lambda request: Answer(500, "InternalError") if request.part == 3 else Fate.PASS
    for delivery in (gone, stays):
        assert isinstance(await uploader.deliver(delivery), RetryLater)
    call = CallToErase(gone.record.call_id)
    assert await uploader.erase([call], dry_run=True) == Erased(1)
    assert len(await uploads(weed, bucket)) == 2
    assert await uploader.erase([call]) == Erased(1)
    assert len(await uploads(weed, bucket)) == 1
    proxied.decide = lambda _: Fate.PASS
    proxied.requests.clear()
    assert isinstance(await uploader.deliver(stays), Delivered)
    assert 1 not in proxied.parts


async def test_a_server_that_lists_no_uploads_may_have_parts_of_an_erased_call(
    made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """The report says so; one that answers a list of none with an error, as some do, has none."""
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint))
    refusals = {Answer(404, "NoSuchUpload"): False, Answer(403, "AccessDenied"): True}
    for answer, said in refusals.items():
        proxied.decide = partial(refuse_a_list_of_uploads, answer)
        erased = await uploader.erase([CallToErase("call")])
        assert ("not completed" in (erased.unreached or ""), erased.again) == (said, False)


def refuse_a_list_of_uploads(answer: Answer, request: Request) -> Fate | Answer:
    return answer if "uploads" in urlsplit(request.target).query else Fate.PASS


async def test_a_part_whose_answer_was_lost_is_not_sent_again(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """The server has the part though nobody was told: its MD5 as ETag proves that."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, parts_at_once=1))
    proxied.decide = lose(lambda request: request.part == 2)
    assert isinstance(await uploader.deliver(delivery), RetryLater)
    proxied.requests.clear()
    proxied.decide = lambda _: Fate.PASS
    assert isinstance(await uploader.deliver(delivery), Delivered)
    assert proxied.parts == [3, 4]


@pytest.mark.parametrize("dialect", ["weed", "clone"])
async def test_a_completion_whose_answer_was_lost_is_found(
    store: Store,
    made: MakeUploader,
    request: pytest.FixtureRequest,
    a_bucket: Callable[[Server], str],
    heard: Heard,
    dialect: str,
) -> None:
    """The upload is gone and the object is there: it is compared, and nothing is sent again."""
    server = request.getfixturevalue(dialect)
    bucket = a_bucket(server)
    delivery = await store.large(SIZE)
    async with proxy_before(server.port) as proxy:
        uploader = made(options(server, bucket, endpoint_url=proxy.endpoint))
        proxy.decide = lose(lambda one: one.completes)
        assert isinstance(await uploader.deliver(delivery), RetryLater)
        proxy.requests.clear()
        proxy.decide = lambda _: Fate.PASS
        assert isinstance(await uploader.deliver(delivery), Delivered)
        assert proxy.parts == []
    assert len(await objects(server, bucket)) == 1


@pytest.mark.parametrize("dialect", ["weed", "clone"])
async def test_a_put_whose_answer_was_lost_is_no_second_object(
    store: Store,
    made: MakeUploader,
    request: pytest.FixtureRequest,
    a_bucket: Callable[[Server], str],
    dialect: str,
) -> None:
    """The second PUT meets the first one's object under the same key, and that is delivered."""
    server = request.getfixturevalue(dialect)
    bucket = a_bucket(server)
    delivery = await store.large(100_000)
    async with proxy_before(server.port) as proxy:
        uploader = made(options(server, bucket, endpoint_url=proxy.endpoint))
        proxy.decide = lose(lambda one: one.method == "PUT")
        assert isinstance(await uploader.deliver(delivery), RetryLater)
        proxy.decide = lambda _: Fate.PASS
        assert isinstance(await uploader.deliver(delivery), Delivered)
    assert len(await objects(server, bucket)) == 1


async def test_an_upload_that_the_server_lost_starts_over(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """When neither upload nor object is there, all parts are sent again, in the same attempt."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, parts_at_once=1))
    proxied.decide = lambda request: Answer(500, "InternalError") if request.part == 3 else Fate.PASS
    await uploader.deliver(delivery)
    await _abort_all(weed, bucket)
    proxied.decide = lambda _: Fate.PASS
    proxied.requests.clear()
    assert isinstance(await uploader.deliver(delivery), Delivered)
    assert proxied.parts == [1, 2, 3, 4]


async def test_an_upload_that_vanishes_under_way_ends_the_attempt_if_it_does_so_twice(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """A server that forgets every upload does not keep an attempt going for ever."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint))
    proxied.decide = lambda request: Answer(404, "NoSuchUpload") if request.part == 2 else Fate.PASS
    assert isinstance(await uploader.deliver(delivery), RetryLater)
    begun = [one for one in proxied.requests if one.method == "POST" and "uploads" in one.target]
    assert len(begun) == 2


async def test_an_object_of_strangers_is_not_replaced(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """Where something else lies under the key, the delivery becomes a dead letter that says so."""
    for size in (1000, 9 * MEBIBYTE):
        delivery = await store.large(size)
        uploader = made(options(weed, bucket, encoding=ObjectEncoding.PLAIN))
        await uploader.deliver(delivery)
        (stored,) = await objects(weed, bucket)
        async with client_of(weed) as client:
            await client.put_object(Bucket=bucket, Key=stored.key, Body=b"not callspool's")
        outcome = await uploader.deliver(delivery)
        assert isinstance(outcome, Refused)
        assert "that callspool did not write" in outcome.reason
        (kept,) = await objects(weed, bucket)
        assert kept.data == b"not callspool's"
        async with client_of(weed) as client:
            await client.delete_object(Bucket=bucket, Key=stored.key)


@pytest.mark.parametrize("size", [1000, 9 * MEBIBYTE], ids=["put", "parts"])
async def test_an_object_of_ones_own_with_other_bytes_is_replaced(
    store: Store, made: MakeUploader, weed: Server, bucket: str, size: int
) -> None:
    """What an older version made of the same record gives way."""
    delivery = await store.large(size)
    uploader = made(options(weed, bucket, encoding=ObjectEncoding.PLAIN))
    await uploader.deliver(delivery)
    (stored,) = await objects(weed, bucket)
    async with client_of(weed) as client:
        await client.put_object(Bucket=bucket, Key=stored.key, Body=b"older", Metadata=stored.headers["Metadata"])
    assert isinstance(await uploader.deliver(delivery), Delivered)
    (replaced,) = await objects(weed, bucket)
    assert replaced.data == stored.data


@pytest.mark.parametrize("answer", [Answer(501, "NotImplemented"), Answer(405, "MethodNotAllowed")])
async def test_a_server_without_if_none_match_is_found_out_once(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, answer: Any
) -> None:
    """A refused condition is left out, and not tried again with the next object."""
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint))
    proxied.decide = lambda request: answer if "if-none-match" in request.headers else Fate.PASS
    for _ in range(2):
        assert isinstance(await uploader.deliver(await store.large(1000)), Delivered)
    assert [("if-none-match" in one.headers) for one in proxied.requests if one.method == "PUT"] == [True, False, False]


async def test_abandoned_uploads_are_aborted(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, heard: Heard
) -> None:
    """An upload whose delivery was given up is aborted at the server at the next start, and then forgotten."""
    delivery = await store.large(SIZE)
    chosen = options(weed, bucket, endpoint_url=proxied.endpoint)
    proxied.decide = lambda request: Answer(500, "InternalError") if request.part == 3 else Fate.PASS
    await made(chosen).deliver(delivery)
    await store.discarded(delivery)
    proxied.decide = lambda request: Answer(500, "InternalError") if request.method == "DELETE" else Fate.PASS
    await made(chosen).deliver(await store.large(1000))
    assert (heard.aborted, heard.not_aborted) == (0, 1)
    proxied.decide = lambda _: Fate.PASS
    await made(chosen).deliver(await store.large(1000))
    assert (heard.aborted, heard.not_aborted) == (1, 1)
    assert await uploads(weed, bucket) == []
    assert await store.spool.uploader_state.abandoned_uploads(DESTINATION) == ()


async def test_abandoned_uploads_are_looked_for_again_whatever_the_wall_clock_says(
    store: Store, weed: Server, bucket: str, heard: Heard, credentials: None
) -> None:
    """Every ten minutes of a clock that nobody sets."""
    now = [1000.0]
    uploader = S3Uploader(options(weed, bucket), store.spool, store.spool.uploader_state, heard, clock=lambda: now[0])
    looked = []
    for seconds in (0, TIDY_SECONDS - 1, 1):
        now[0] += seconds
        await begun_and_abandoned(store, bucket)
        await uploader.deliver(await store.large(1000))
        looked.append(await store.spool.uploader_state.abandoned_uploads(DESTINATION) == ())
    await uploader.close()
    assert looked == [True, False, True]


async def test_a_server_in_trouble_is_asked_to_abort_one_upload_only(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, heard: Heard
) -> None:
    """A delivery does not wait for as many time-outs as there are abandoned uploads; what is refused delays none."""
    for _ in range(3):
        await begun_and_abandoned(store, bucket)
    for answer, failures in ((Answer(500, "InternalError"), 1), (Answer(403, "AccessDenied"), 4)):
        proxied.decide = partial(answered_to_deletes, answer)
        uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint))
        assert isinstance(await uploader.deliver(await store.large(1000)), Delivered)
        assert heard.not_aborted == failures


async def test_an_upload_that_always_fails_keeps_no_other_from_being_aborted(
    store: Store, weed: Server, bucket: str, proxied: Proxy, heard: Heard, credentials: None
) -> None:
    """Those behind it are tried first the next time."""
    for number in range(3):
        await begun_and_abandoned(store, bucket, f"upload-{number}")
    proxied.decide = lambda request: (
        Answer(500, "InternalError") if "upload-0" in request.target and request.method == "DELETE" else Fate.PASS
    )
    now = [0.0]
    chosen = options(weed, bucket, endpoint_url=proxied.endpoint)
    uploader = S3Uploader(chosen, store.spool, store.spool.uploader_state, heard, clock=lambda: now[0])
    left = []
    for _ in range(2):
        await uploader.deliver(await store.large(1000))
        left.append([one.upload_id for one in await store.spool.uploader_state.abandoned_uploads(DESTINATION)])
        now[0] += TIDY_SECONDS
    await uploader.close()
    assert left == [["upload-0", "upload-1", "upload-2"], ["upload-0"]]


def answered_to_deletes(answer: Answer, request: Request) -> Answer | Fate:
    return answer if request.method == "DELETE" else Fate.PASS


async def begun_and_abandoned(store: Store, bucket: str, upload_id: str = "unknown-upload") -> None:
    """The ledger has an upload that the server does not know, of a delivery that was given up."""
    delivery = await store.large(1000)
    await store.spool.uploader_state.begin_upload(UploadProgress(delivery.key, bucket, "key", upload_id, 5 * MEBIBYTE))
    await store.discarded(delivery)


async def test_an_upload_whose_id_was_never_written_down_is_aborted(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, heard: Heard
) -> None:
    """When the gateway was killed between the server's answer and the ledger, the next attempt clears up."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint))
    proxied.decide = lose(lambda request: request.method == "POST" and "uploads" in request.target)
    assert isinstance(await uploader.deliver(delivery), RetryLater)
    assert len(await uploads(weed, bucket)) == 1
    proxied.decide = lambda _: Fate.PASS
    assert isinstance(await uploader.deliver(delivery), Delivered)
    assert heard.aborted == 1
    assert await uploads(weed, bucket) == []


async def test_a_server_that_lists_no_uploads_takes_objects_all_the_same(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, heard: Heard
) -> None:
    """Without the permission to look for lost uploads, they are left to the bucket's lifecycle."""
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint))
    proxied.decide = lambda one: Answer(403, "AccessDenied") if one.method == "GET" else Fate.PASS
    assert isinstance(await uploader.deliver(await store.large(12 * MEBIBYTE)), Delivered)
    assert heard.not_aborted == 1


async def test_attempts_that_failed_keep_no_place_of_others(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload that cannot be read, or a cancelled attempt, gives back the only place that parts have."""
    broken, good = await store.large(SIZE), await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, parts_at_once=1))
    frames = store.spool.frames

    async def damaged(record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        async for frame in frames(record, fragment):
            yield frame
            if record == broken.record:
                raise CorruptPayload("made to fail")

    monkeypatch.setattr(store.spool, "frames", damaged)
    with pytest.raises(CorruptPayload):
        await uploader.deliver(broken)
    cancelled = asyncio.ensure_future(uploader.deliver(good))
    proxied.decide = lambda one: Fate.HOLD_BODY if one.part == 2 else Fate.PASS
    await asyncio.wait_for(proxied.held.get(), 60)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    proxied.decide = lambda _: Fate.PASS
    async with asyncio.timeout(60):
        assert isinstance(await uploader.deliver(good), Delivered)


async def test_an_upload_that_comes_too_late_is_aborted(
    store: Store, made: MakeUploader, weed: Server, bucket: str, heard: Heard
) -> None:
    """When the object turns out to be there at the end, it stays, and the parts sent in vain are given up."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket))
    await uploader.deliver(delivery)
    await store.spool.uploader_state.forget_upload(delivery.key)
    assert isinstance(await uploader.deliver(delivery), Delivered)
    assert heard.aborted == 1
    assert await uploads(weed, bucket) == []
    assert await store.spool.uploader_state.upload_progress(delivery.key) is None


async def test_an_abandoned_upload_that_the_server_lost_is_forgotten(
    store: Store, made: MakeUploader, weed: Server, bucket: str, heard: Heard
) -> None:
    """What a lifecycle rule aborted before is as good as aborted."""
    await begun_and_abandoned(store, bucket)
    await made(options(weed, bucket)).deliver(await store.large(1000))
    assert await store.spool.uploader_state.abandoned_uploads(DESTINATION) == ()
    assert (heard.aborted, heard.not_aborted) == (0, 0)


async def test_a_server_that_goes_silent_does_not_hold_a_slot_for_ever(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """A request has its time, with its body; then the delivery is tried again later."""
    proxied.decide = lambda one: Fate.HOLD_BODY if one.method == "PUT" else Fate.PASS
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, request_timeout=0.3))
    reason = "PutObject: the response did not end within 0.3 s (request_timeout)"
    assert await uploader.deliver(await store.large(MEBIBYTE)) == RetryLater(reason)


async def test_another_key_or_bucket_begins_another_upload(
    store: Store,
    made: MakeUploader,
    weed: Server,
    a_bucket: Callable[[Server], str],
    proxied: Proxy,
    heard: Heard,
) -> None:
    """When the configuration changed in between, the old upload is aborted where it was begun."""
    old, new = a_bucket(weed), a_bucket(weed)
    delivery = await store.large(SIZE)
    proxied.decide = lambda request: Answer(500, "InternalError") if request.part == 3 else Fate.PASS
    await made(options(weed, old, endpoint_url=proxied.endpoint)).deliver(delivery)
    assert isinstance(await made(options(weed, new)).deliver(delivery), Delivered)
    assert (await uploads(weed, old), heard.aborted) == ([], 1)
    assert len(await objects(weed, new)) == 1


async def test_the_progress_ends_with_the_delivery(store: Store, made: MakeUploader, weed: Server, bucket: str) -> None:
    """Until it is settled the ledger remembers the upload, and afterwards nothing of it is left."""
    delivery = await store.large(SIZE)
    await made(options(weed, bucket)).deliver(delivery)
    progress = await progress_of(store, delivery)
    assert sorted(progress.parts) == [1, 2, 3, 4]
    assert all(part.etag for part in progress.parts.values())
    await store.spool.settle(delivery, SettledAsDelivered())
    assert await store.spool.uploader_state.upload_progress(delivery.key) is None


async def progress_of(store: Store, delivery: Delivery) -> UploadProgress:
    """What is remembered of an upload under way."""
    progress = await store.spool.uploader_state.upload_progress(delivery.key)
    assert progress is not None
    return progress


async def test_parts_are_written_down_before_they_are_sent(
    store: Store, made: MakeUploader, weed: Server, bucket: str, proxied: Proxy
) -> None:
    """What was begun and never answered is known afterwards, with its size and MD5 and without an ETag."""
    delivery = await store.large(SIZE)
    uploader = made(options(weed, bucket, endpoint_url=proxied.endpoint, parts_at_once=1))
    proxied.decide = lambda request: Answer(500, "InternalError") if request.part == 2 else Fate.PASS
    await uploader.deliver(delivery)
    progress = await progress_of(store, delivery)
    assert (progress.bucket, progress.part_bytes) == (bucket, 5 * MEBIBYTE)
    assert progress.parts[1].etag == progress.parts[1].md5.hex()
    assert progress.parts[2].etag is None
    assert (progress.parts[2].size, len(progress.parts[2].md5)) == (5 * MEBIBYTE, 16)


async def test_the_ledger_forgets_and_begins_anew(store: Store) -> None:
    """A new upload of a delivery takes the place of the old one with all its parts; forgetting is repeatable."""
    delivery = await store.large(1000)
    for upload_id in ("first", "second"):
        await store.spool.uploader_state.begin_upload(UploadProgress(delivery.key, "b", "k", upload_id, 8 * MEBIBYTE))
        await store.spool.uploader_state.write_parts(delivery.key, {1: PartProgress(5, b"m" * 16)})
        await store.spool.uploader_state.write_parts(delivery.key, {1: PartProgress(5, b"m" * 16, "etag")})
        progress = await progress_of(store, delivery)
        assert (progress.upload_id, progress.parts) == (upload_id, {1: PartProgress(5, b"m" * 16, "etag")})
    for _ in range(2):
        await store.spool.uploader_state.forget_upload(delivery.key)
        assert await store.spool.uploader_state.upload_progress(delivery.key) is None


@pytest.mark.parametrize(
    ("remembered", "listed", "finished"),
    [
        (None, None, False),
        (("m", "kms"), None, False),
        (None, (3, "m"), True),
        (("m", None), (3, "m"), True),
        (("m", None), (3, "kms"), False),
        (("m", "kms"), (3, "kms"), True),
        (("m", "kms"), (3, "other"), False),
        (("other", "kms"), (3, "kms"), False),
        (("m", "kms"), (4, "kms"), False),
    ],
    ids=str,
)
async def test_a_part_is_finished_only_if_these_bytes_are_there(
    remembered: tuple[str, str | None] | None, listed: tuple[int, str] | None, finished: bool
) -> None:
    """By the MD5 as ETag, or by the ETag that answered these bytes where it is no MD5; the size must be right."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"

    part = await PartCutter(chunks(), 10, size_bound=3, with_md5=True).next()
    md5 = {"m": part.md5, "other": bytes(16)}
    before = PartProgress(3, md5[remembered[0]], remembered[1]) if remembered else None
    there = ListedPart(listed[0], part.md5.hex() if listed[1] == "m" else listed[1]) if listed else None
    assert (finished_etag(part, before, there) is not None) == finished


async def _abort_all(server: Server, bucket: str) -> None:
    async with client_of(server) as client:
        for one in (await client.list_multipart_uploads(Bucket=bucket))["Uploads"]:
            await client.abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])

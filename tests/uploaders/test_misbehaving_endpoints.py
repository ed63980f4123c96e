"""What becomes of a delivery when the server at the other end hangs, trickles, breaks off or answers nonsense."""

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from spool.records import Form
from tests.uploaders.deliveries import a_payload, deliver
from tests.uploaders.rogue_server import HEAD, Behaviour, Rogue, for_ever, never_answers, read_request
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.document.options import Encoding
from uploaders.http.connection import RESPONSE_LIMIT_BYTES
from uploaders.http.timeouts import Timeouts

SHORT, LONG = 0.15, 30.0
"""Seconds: for the time-out that is to strike, and for the others."""
SOON = 5.0
"""Seconds in which even a slow machine has seen a short time-out."""


async def outcome_at(behaviour: Behaviour, *, rest_bytes: int = 1000, **options: object) -> Outcome:
    """What comes of a detail that is posted, uncompressed, to a server which behaves like this."""
    payloads, delivery = a_payload(rest_bytes)
    async with Rogue(behaviour, scheme=str(options.pop("scheme", "http"))) as rogue:
        return await deliver(rogue.url, payloads, delivery(Form.DETAIL), encoding=Encoding.IDENTITY, **options)


async def never_reads(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accepts the connection, and nothing else."""
    await for_ever()


async def trickles_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a byte of an endless header now and then."""
    await read_request(reader)
    writer.write(HEAD + b"X-Slow: ")
    while True:
        writer.write(b"z")
        await asyncio.sleep(0.01)


async def trickles_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends a byte of its answer now and then."""
    await read_request(reader)
    writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("behaviour", "timeouts", "scheme", "expected"),
    [
        (
            never_reads,
            Timeouts(SHORT, LONG, LONG, LONG),
            "https",
            RetryLater("no connection within 0.15 s (connect_timeout)", Scope.DESTINATION),
        ),
        (
            never_reads,
            Timeouts(LONG, SHORT, LONG, LONG),
            "http",
            RetryLater("the server stopped reading the request within 0.15 s (send_timeout)"),
        ),
        (
            never_answers,
            Timeouts(LONG, LONG, SHORT, LONG),
            "http",
            RetryLater("the server read the request and did not respond within 0.15 s (first_byte_timeout)"),
        ),
        (
            trickles_headers,
            Timeouts(LONG, LONG, SHORT, LONG),
            "http",
            RetryLater("the server read the request and did not respond within 0.15 s (first_byte_timeout)"),
        ),
        (
            trickles_body,
            Timeouts(LONG, LONG, LONG, SHORT),
            "http",
            RetryLater("the response did not end within 0.15 s (total_timeout)"),
        ),
        (
            never_answers,
            Timeouts(LONG, LONG, LONG, SHORT),
            "http",
            RetryLater("the server read the request and did not respond within 0.15 s (total_timeout)"),
        ),
    ],
)
async def test_the_time_out_that_struck_is_named(
    behaviour: Behaviour, timeouts: Timeouts, scheme: str, expected: RetryLater
) -> None:
    """Each phase of a request ends in its own time, and the reason says which time-out ended it."""
    began = time.monotonic()
    # Larger than what the sockets of both ends hold together, so that a peer that reads nothing is noticed.
    rest_bytes = 5_500_000 if behaviour is never_reads else 1000
    assert await outcome_at(behaviour, rest_bytes=rest_bytes, timeouts=timeouts, scheme=scheme) == expected
    assert time.monotonic() - began < SOON


async def test_a_slow_reader_is_given_time() -> None:
    """An endpoint that keeps taking some of a request is not given up, however long all of it takes."""

    async def reads_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while left > 0:
            left -= len(await reader.read(65536))
            await asyncio.sleep(0.02)
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        await writer.drain()

    began = time.monotonic()
    outcome = await outcome_at(reads_slowly, rest_bytes=5_500_000, timeouts=Timeouts(LONG, 1.0, LONG, LONG))
    assert outcome == Delivered()
    assert time.monotonic() - began > 1.0


async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closes in the middle of its answer."""
    await read_request(reader)
    writer.write(HEAD + b'Content-Length: 100\r\n\r\n{"success": true')
    await writer.drain()


async def hangs_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Cuts the connection in the middle of the request."""
    await reader.read(100)


async def speaks_something_else(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Is a mail server."""
    writer.write(b"220 mail.example ESMTP ready\r\n")
    await writer.drain()
    await for_ever()


async def sends_endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never stops to send header lines."""
    await read_request(reader)
    writer.write(HEAD)
    number = 0
    while True:
        number += 1
        writer.write(b"X-%d: " % number + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def says_only_continue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Goes on to announce an answer that does not come."""
    await read_request(reader)
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (breaks_off, "the connection broke"),
        (hangs_up, "connection"),
        (speaks_something_else, "not HTTP"),
        (sends_endless_headers, "not HTTP"),
        (says_only_continue, "first_byte_timeout"),
    ],
)
async def test_what_breaks_off_or_makes_no_sense_is_tried_again(behaviour: Behaviour, words: str) -> None:
    """An answer that breaks off, or is none, confirms nothing: this delivery is tried again."""
    rest_bytes = 5_500_000 if behaviour is hangs_up else 1000
    outcome = await outcome_at(behaviour, rest_bytes=rest_bytes, timeouts=Timeouts(LONG, LONG, 0.5, LONG))
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.RECORD
    assert words in outcome.reason


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        (b'{"success": true, "filler": "', Delivered),
        (b'{"error": "full", "success": false, "filler": "', RetryLater),
        (b"<!DOCTYPE html><html><body>", Refused),
    ],
)
async def test_of_an_endless_answer_only_the_beginning_is_read(beginning: bytes, expected: type[Outcome]) -> None:
    """An answer of 5 GB takes neither memory nor time: its beginning decides, and the connection is closed."""
    rogue: Rogue

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HEAD + b"Content-Length: 5000000000\r\n\r\n")
        await rogue.write(writer, beginning)
        while rogue.sent_bytes < 5_000_000_000:
            await rogue.write(writer, b"f" * 65536)

    payloads, delivery = a_payload()
    async with Rogue(floods) as rogue:
        outcome = await deliver(rogue.url, payloads, delivery(Form.CORE))
    assert isinstance(outcome, expected)
    # What the sockets of both ends buffer comes on top of what was read.
    assert rogue.sent_bytes < RESPONSE_LIMIT_BYTES + 16_000_000


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (b"application/json", b'{"success": false, "error": "db down"}', RetryLater),
        (b"application/json", b"\x00\xff garbage", RetryLater),
        (b"application/problem+json", b'{"cut', RetryLater),
        (b"text/html; charset=utf-8", b"<h1>Welcome to the hotel</h1>", Refused),
        (b"text/plain", b"\n <html><title>Log in</title>", Refused),
        (b"text/plain", b"OK", Delivered),
        (b"application/json", b"", Delivered),
        (b"application/json", b"[]", Delivered),
    ],
)
async def test_a_200_with_nonsense_is_no_delivery(content_type: bytes, body: bytes, expected: type[Outcome]) -> None:
    """A 200 confirms a delivery unless its body says otherwise, is broken JSON, or is a web page."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\n" + length + body)
        await writer.drain()
        await for_ever()

    outcome = await outcome_at(answers)
    assert isinstance(outcome, expected)
    if isinstance(outcome, Refused):
        assert outcome.scope is Scope.DESTINATION
        assert "set the endpoint's own address as url" in outcome.reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed(status: int) -> None:
    """Nothing is sent to where a redirect leads, least of all the token; the destination is paused and says why."""
    reached = []

    async def target(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1))

    async with Rogue(target) as other:

        async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            location = f"Location: {other.url}?ticket=s3cr3t\r\n"
            writer.write(f"HTTP/1.1 {status} Moved\r\n{location}Content-Length: 0\r\n\r\n".encode())
            await writer.drain()

        outcome = await outcome_at(redirects)
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.DESTINATION
    assert "redirects to http://localhost/dev/send-call-log" in outcome.reason
    assert "s3cr3t" not in outcome.reason
    assert reached == []


@pytest.mark.parametrize(
    ("host", "valid_until", "words"),
    [
        ("elsewhere.example", timedelta(days=1), "Hostname mismatch"),
        ("localhost", timedelta(days=-1), "expired"),
    ],
)
async def test_a_wrong_certificate_makes_the_destination_wait(
    host: str, valid_until: timedelta, words: str, tmp_path: Path
) -> None:
    """Nothing is sent to a server whose certificate is for another name or has expired, and the reason says so."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host, not_after=datetime.now(UTC) + valid_until).configure_cert(tls)
    received = []

    async def listens(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())

    payloads, delivery = a_payload()
    async with Rogue(listens, tls=tls) as rogue:
        outcome = await deliver(rogue.url, payloads, delivery(Form.CORE), ca_file=tmp_path / "ca.pem")
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert outcome.reason.startswith("TLS: ")
    assert words in outcome.reason
    assert b"".join(received) == b""


@pytest.mark.parametrize("endless", [b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", b"extension"])
async def test_framing_without_an_end_is_cut_off(endless: bytes) -> None:
    """Chunk extensions and interim responses that never end cost no core until the time-out: 256 KiB are enough."""

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if endless == b"extension":
            writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;")
        while not writer.is_closing():
            writer.write(endless * 1000)
            await writer.drain()

    async with asyncio.timeout(SOON):
        outcome = await outcome_at(floods, timeouts=Timeouts(LONG, LONG, LONG, LONG))
    assert isinstance(outcome, RetryLater)
    assert "hardly any body" in outcome.reason or "not HTTP" in outcome.reason

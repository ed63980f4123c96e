"""Requests over kept connections, against servers that are written down in bytes."""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp.resolver import DefaultResolver
from yarl import URL

from tests.uploaders.rogue_server import Rogue, for_ever, read_request
from uploaders.http import pool
from uploaders.http.confirmation import Answer
from uploaders.http.connection import RESPONSE_LIMIT_BYTES, TAIL_BYTES, BadAnswer
from uploaders.http.pool import ClientOptions, HttpClient, request_head, request_target

HEADERS = {"Content-Type": "application/json"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def connections(ca_file: Path | None = None) -> AsyncIterator[HttpClient]:
    made = HttpClient(ClientOptions(ca_file))
    try:
        yield made
    finally:
        await made.close()


def answering(*answers: bytes, then_closes: bool = False) -> Rogue:
    """Answers one request of a connection after the other, in these bytes."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
        if not then_closes:
            await for_ever()

    return Rogue(behaviour)


async def answers_to(rogue: Rogue, requests: int) -> list[Answer]:
    """What comes of so many requests, one after the other; how many connections they took is counted by `rogue`."""
    async with rogue, connections() as made:
        return [await made.request("POST", rogue.url, HEADERS, b"{}") for _ in range(requests)]


async def test_requests_follow_each_other_on_one_connection() -> None:
    """A connection is kept for the next request, and its answers are told apart."""
    rogue = answering(OK, b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy", OK)
    answers = await answers_to(rogue, 3)
    assert rogue.connections == 1
    assert [(one.status, one.body, one.retry_after) for one in answers] == [
        (200, b"{}", None),
        (503, b"busy", "7"),
        (200, b"{}", None),
    ]


async def test_the_end_of_a_long_answer_is_kept_and_the_connection_too() -> None:
    """Beyond 64 KiB the beginning and the last 4 KiB of a body are kept, and the connection is used again."""
    body = b'{"echo":"' + b"x" * 300_000 + b'","success":false}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            await rogue.write(writer, answer)

    async with Rogue(answers) as rogue, connections() as made:
        for _ in range(2):
            got = await made.request("POST", rogue.url, {}, b"{}")
            assert (got.whole, len(got.body), got.tail) == (False, RESPONSE_LIMIT_BYTES, body[-TAIL_BYTES:])
        assert rogue.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"HTTP/1.1 200 OK\r\n\r\n",
        OK + b"garbage",
    ],
    ids=["told", "old", "another", "garbage"],
)
async def test_a_connection_that_cannot_be_kept_is_closed(answer: bytes) -> None:
    """Where the server says so, or more came than one whole answer, the next request has a connection of its own."""
    rogue = answering(answer, answer)
    answers = await answers_to(rogue, 2)
    assert [one.status for one in answers] == [200, 200]
    assert rogue.connections == 2


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """A server may close an idle connection at any time: that costs no delivery."""
    closed = asyncio.Event()

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with Rogue(behaviour) as rogue, connections() as made:
        for _ in range(3):
            closed.clear()
            assert (await made.request("POST", rogue.url, HEADERS, b"{}")).status == 200
            await closed.wait()
            await asyncio.sleep(0)
    assert rogue.connections == 3


async def test_a_connection_that_was_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time in which servers begin to close idle connections they are closed here."""
    monkeypatch.setattr(pool, "KEEP_ALIVE_SECONDS", 0.05)
    gone = asyncio.Event()

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        assert await reader.read() == b""
        gone.set()

    async with Rogue(behaviour) as rogue, connections() as made:
        assert (await made.request("POST", rogue.url, HEADERS, b"{}")).status == 200
        await asyncio.wait_for(gone.wait(), 30)


@pytest.mark.parametrize("through_proxy", [False, True])
async def test_a_name_that_moved_is_followed_under_steady_traffic(
    monkeypatch: pytest.MonkeyPatch, through_proxy: bool
) -> None:
    """A connection has an age limit, also to a proxy: then the name is resolved anew, though it was never idle."""
    monkeypatch.setattr(pool, "MAX_AGE_SECONDS", 0.2)
    monkeypatch.setattr(pool, "DNS_CACHE_SECONDS", 0)
    addresses = ["127.0.0.1"]

    async def resolve(_self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        answer = {"hostname": host, "host": addresses[-1], "port": port, "family": socket.AF_INET}
        return [{**answer, "proto": 0, "flags": 0}]

    monkeypatch.setattr(DefaultResolver, "resolve", resolve)
    served: list[str] = []
    opened: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await read_request(reader)
                served.append(writer.get_extra_info("sockname")[0])
                writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    second = await asyncio.start_server(serve, "127.0.0.2", server.sockets[0].getsockname()[1])
    port = server.sockets[0].getsockname()[1]
    if through_proxy:
        monkeypatch.setenv("http_proxy", f"http://moved.example:{port}")
    url = "http://endpoint.example/x" if through_proxy else f"http://moved.example:{port}/x"
    try:
        async with connections() as made, asyncio.timeout(30):
            await made.request("POST", url, HEADERS, b"{}")
            addresses.append("127.0.0.2")
            while served[-1] != "127.0.0.2":
                await made.request("POST", url, HEADERS, b"{}")
    finally:
        server.close()
        second.close()
        for writer in opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in opened), return_exceptions=True)
    assert served[0] == "127.0.0.1"
    assert len(served) > 2, "the connection was used again while it was young"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; a=b\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{  }\r\n0\r\n\r\n", b"{  }"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", b""),
    ],
    ids=["until closed", "chunked", "announced", "empty"],
)  # fmt: skip
@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
async def test_an_answer_is_read_however_it_comes(answer: bytes, body: bytes, split: bool) -> None:
    """Every way in which HTTP/1.1 frames a body is understood, in any pieces."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for part in [answer[at : at + 1] for at in range(len(answer))] if split else [answer]:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    (answered,) = await answers_to(Rogue(behaviour), 1)
    assert answered.status in {200, 204}
    assert answered.body == body
    assert answered.whole


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 103 Hints\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_breaks_off_is_none(answer: bytes) -> None:
    """What ends before its end confirms nothing."""
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        await answers_to(answering(answer, then_closes=True), 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/9 what\r\n\r\n",
        b"\x16\x03\x01\r\n",
    ],
)
async def test_what_is_no_http_is_told_apart(answer: bytes) -> None:
    """An answer in another language is no broken connection."""
    with pytest.raises(BadAnswer):
        await answers_to(answering(answer), 1)


async def test_a_server_that_speaks_first_is_none_of_http() -> None:
    """A greeting belongs to another protocol."""

    async def greets(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP ready\r\n")
        await for_ever()

    for _ in range(20):
        with pytest.raises(BadAnswer):
            await answers_to(Rogue(greets), 1)


@pytest.mark.parametrize("as_stream", [False, True], ids=["buffer", "stream"])
async def test_an_early_answer_ends_the_request(as_stream: bool) -> None:
    """A server that refuses by the headers is heard, without sending the rest of 50 MB to it."""
    size = 50_000_000
    received = 0

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
        while data := await reader.read(65536):
            received += len(data)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(size // 100_000):
            yield bytes(100_000)

    headers = {**HEADERS, "Content-Length": str(size)} if as_stream else HEADERS
    async with Rogue(refuses) as rogue, connections() as made:
        answer = await made.request("POST", rogue.url, headers, parts() if as_stream else bytes(size))
    assert answer.status == 413
    assert received < size / 2


async def digests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with the digest of its body."""
    while True:
        digest = sha256(await read_request(reader)).hexdigest().encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(digest) + digest)
        await writer.drain()


async def assert_each_has_its_answer(rogue: Rogue, made: HttpClient, bodies: Sequence[bytes]) -> None:
    """Three rounds of requests, all of a round at once."""
    for _ in range(3):
        answers = await asyncio.gather(*(made.request("POST", rogue.url, HEADERS, body) for body in bodies))
        assert [one.body.decode() for one in answers] == [sha256(body).hexdigest() for body in bodies]
    assert rogue.connections == len(bodies)


async def test_many_requests_at_once_have_a_connection_each() -> None:
    """Nothing waits for another request; afterwards the connections serve again."""
    async with Rogue(digests) as rogue, connections() as made:
        await assert_each_has_its_answer(rogue, made, [b"%d" % number for number in range(40)])


async def test_large_requests_arrive_whole_over_tls(tmp_path: Path) -> None:
    """What the socket does not take at once follows as it takes more, also through TLS, and the connection is kept."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    bodies = [random.Random(size).randbytes(size) for size in (100, 65_536, 65_537, 3_000_000)]
    async with Rogue(digests, tls=tls) as rogue, connections(ca_file=tmp_path / "ca.pem") as made:
        await assert_each_has_its_answer(rogue, made, bodies)


@pytest.mark.parametrize("name", ["x-pype-token", "Idempotency-Key"])
@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\rb", "a\0b"])
async def test_no_header_begins_another_one(name: str, value: str) -> None:
    """A value with a line break in it is refused, whoever made it."""
    with pytest.raises(ValueError, match="line break"):
        request_head("POST", request_target(URL("http://localhost/x"), None), {name: value})


@pytest.mark.parametrize(
    ("address", "lines"),
    [
        ("http://localhost:8080/a%20b?c=d#e", ["POST /a%20b?c=d HTTP/1.1", "Host: localhost:8080", "Accept: */*"]),
        ("https://example.com", ["POST / HTTP/1.1", "Host: example.com", "Accept: */*"]),
        ("http://[::1]:81/", ["POST / HTTP/1.1", "Host: [::1]:81", "Accept: */*"]),
        ("http://bücher.example/ä", ["POST /%C3%A4 HTTP/1.1", "Host: xn--bcher-kva.example", "Accept: */*"]),
        ("http://u:p%40@h/", ["POST / HTTP/1.1", "Host: h", "Accept: */*", "Authorization: Basic dTpwQA=="]),
    ],
)
async def test_an_address_makes_the_first_lines(address: str, lines: Sequence[str]) -> None:
    """Path, host and credentials of an address stand in the request as the standard wants them."""
    head = request_head("POST", request_target(URL(address), None), {"Content-Length": "2"}).decode()
    assert head.split("\r\n") == [*lines, "Content-Length: 2", "", ""]


START, LENGTH, END = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 2\r\n", b"\r\n{}"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
LIVELY = {
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "one bare line feed": START + b"Content-Length: 2\n" + END,
    "a folded header": START + b"X-Note: a\r\n  b\r\n" + LENGTH + END,
    "a folded header, by a tab": START + b"X-Note: a\r\n\tb\r\n" + LENGTH + END,
    "a control character": START + b"X-Note: a\x01b\r\n" + LENGTH + END,
    "a blank after a chunk's size": CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n",
    "blanks after chunks' sizes": CHUNKED + b"1  \r\n{\r\n1 \r\n}\r\n0 \r\n\r\n",
    "a chunk extension": CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n",
    "a trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\n" + LENGTH + END,
    "an empty reason": b"HTTP/1.1 200 \r\n" + LENGTH + END,
    "an empty header": START + b"X-Note:\r\n" + LENGTH + END,
    "Latin-1 in a header": START + b"X-Note: \xe9\r\n" + LENGTH + END,
    "lower case": START + b"content-length: 2\r\n" + END,
    "an empty line first": b"\r\n" + START + LENGTH + END,
    "two codings": START + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "length and coding": START + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": START + LENGTH + LENGTH + END,
    "a length with a sign": START + b"Content-Length: +2\r\n" + END,
    "HTTP/2": b"HTTP/2 200 OK\r\n" + LENGTH + END,
    "no version": b"HTTP 200 OK\r\n" + LENGTH + END,
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n" + LENGTH + END,
    "bare carriage returns": b"HTTP/1.1 200 OK\rContent-Length: 2\r\r{}",
}


@pytest.mark.parametrize("name", LIVELY)
async def test_what_the_client_library_reads_is_read(name: str) -> None:
    """A response that aiohttp, and so the SDK, can read is read here with the same result."""
    async with answering(LIVELY[name], then_closes=True) as rogue, aiohttp.ClientSession() as session:
        try:
            async with session.post(rogue.url, data=b"{}") as response:
                expected = (response.status, await response.read())
        except aiohttp.ClientError:
            return  # what nobody reads may be refused
    async with answering(LIVELY[name], then_closes=True) as rogue, connections() as made:
        got = await made.request("POST", rogue.url, HEADERS, b"{}")
    assert (got.status, got.body) == expected

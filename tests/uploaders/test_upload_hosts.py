"""Where an endpoint may have call logs uploaded to: its own site, object stores, what is listed; no private address."""

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from spool.records import Form
from tests.s3.presigned_endpoint import presigning
from tests.uploaders.deliveries import ACCEPTED_AT, Payloads, a_delivery, a_record
from uploaders.base import Delivered, Outcome, RetryLater, Scope, SilentObserver
from uploaders.presigned import PresignedOptions, PresignedUploader
from uploaders.upload_hosts import HostNotAllowed, UploadHosts, is_public, literal_address

PRIVATE = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "2852039166", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1",
    "fe80::1%eth0", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1",
    "2002:7f00:1::", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2001:0:0:0:0:0:80ff:fffe",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public_are_known_in_every_form(text: str) -> None:
    """Loopback, private, link-local and multicast addresses are refused however they are written or wrapped."""
    address = literal_address(text)
    assert address is not None
    assert not is_public(address)
    with pytest.raises(HostNotAllowed):
        UploadHosts(["api.example.com"]).check_address(text)


@pytest.mark.parametrize("text", ["52.216.0.1", "2600:1f18::1", "::ffff:52.216.0.1", "64:ff9b::34d8:1"])
def test_public_addresses_are_public(text: str) -> None:
    """Object stores are reached by IPv4, IPv6 and what translates between them."""
    assert is_public(ip_address(text))
    UploadHosts(["api.example.com"]).check_address(text)


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("api.example.com", True),
        ("API.example.com.", True),
        ("x.api.example.com", False),
        ("files.example.com", False),
        ("s3.amazonaws.com", False),
        ("bucket.s3.eu-central-1.amazonaws.com", False),
        ("my.bucket.s3-us-west-2.amazonaws.com", False),
        ("b.s3.dualstack.us-east-1.amazonaws.com", False),
        ("b.s3-accelerate.amazonaws.com", False),
        ("storage.googleapis.com", False),
        ("b.storage.googleapis.com", False),
        ("account.blob.core.windows.net", False),
        ("account.r2.cloudflarestorage.com", False),
        ("minio.corp", True),
        ("a.store.corp", True),
        ("10.0.0.9", False),
    ],
)
def test_what_may_be_uploaded_to(host: str, trusted: bool) -> None:
    """The endpoint's own and listed names may have any address; its site and object stores only public ones."""
    assert UploadHosts(["api.example.com"], ["minio.corp", "*.store.corp", "10.0.0.0/24"]).is_trusted(host) is trusted


@pytest.mark.parametrize(
    ("own", "host"),
    [
        ("api.example.com", "example.org"),
        ("api.example.com", "evilexample.com"),
        ("api.example.com", "s3.amazonaws.com.evil.org"),
        ("api.example.com", "evils3.amazonaws.com"),
        ("api.example.com", "ec2.eu-central-1.amazonaws.com"),
        ("api.example.com", "metadata.google.internal"),
        ("api.example.com", "localhost"),
        ("api.example.com", "52.216.0.1"),
        ("example.co.uk", "other.co.uk"),
        ("example.com", "other.com"),
        ("10.0.0.1", "9.0.0.1"),
        *(("api.example.com", text) for text in PRIVATE),
    ],
)
def test_what_may_not_be_uploaded_to(own: str, host: str) -> None:
    """Foreign names, look-alikes, neighbours below a public suffix, and addresses."""
    with pytest.raises(HostNotAllowed, match="leads to"):
        UploadHosts([own]).is_trusted(host)


class Trap:
    """A server of somebody else on loopback, which counts what comes."""

    def __init__(self) -> None:
        self.connections = 0

    async def _came(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._came, "127.0.0.1", 0)


async def _delivered(host: str, port: int, *, site: str | None = None, allowed: tuple[str, ...] = ()) -> Outcome:
    """What comes of an upload address of this host, given out by an endpoint on loopback."""
    payloads = Payloads({7: "the-key"})
    async with presigning() as endpoint:
        endpoint.tell = lambda: {"upload_url": f"http://{host}:{port}/b/k", "s3_key": "k"}
        options = PresignedOptions(
            f"http://{site}/send-call-log" if site else endpoint.url,
            address_url=endpoint.url.replace("/send-call-log", "/get-upload-url"),
            upload_hosts=allowed,
        )
        uploader = PresignedUploader(options, payloads, lambda: ACCEPTED_AT, SilentObserver())
        try:
            return await uploader.deliver(a_delivery(a_record(payloads, token_id=7), Form.WHOLE))
        finally:
            await uploader.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::ffff:127.0.0.1]", "2130706433"])
async def test_a_foreign_host_gets_no_byte(host: str) -> None:
    """The call log and the agent's key stay here, the delivery waits, and the reason names the setting."""
    trap = Trap()
    async with await trap.listen() as server:
        outcome = await _delivered(host, server.sockets[0].getsockname()[1])
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert "presigned.upload_hosts" in outcome.reason
    assert trap.connections == 0


async def test_a_name_that_leads_to_loopback_gets_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the endpoint's own site is no way to a private address, unless it is listed by itself."""
    resolve = socket.getaddrinfo

    def rebound(host: str, *arguments: Any, **keywords: Any) -> Any:
        return resolve("127.0.0.1" if host.endswith(".example.com") else host, *arguments, **keywords)

    monkeypatch.setattr("socket.getaddrinfo", rebound)
    trap = Trap()
    async with await trap.listen() as server:
        port = server.sockets[0].getsockname()[1]
        outcome = await _delivered("files.example.com", port, site="api.example.com")
        assert isinstance(outcome, RetryLater)
        assert "presigned.upload_hosts" in outcome.reason
        assert trap.connections == 0
        await _delivered("files.example.com", port, site="api.example.com", allowed=("files.example.com",))
        assert trap.connections == 1


async def test_the_endpoints_own_host_may_be_anywhere() -> None:
    """A storage server on another port of the endpoint's host, on loopback too, is what the operator chose."""
    application = web.Application()

    async def accept(_: web.Request) -> web.Response:
        return web.Response()

    application.router.add_put("/b/k", accept)
    async with TestServer(application, host="127.0.0.1") as server:
        assert await _delivered("127.0.0.1", server.port or 0) == Delivered("s3://b/k")

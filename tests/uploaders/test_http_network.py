"""What the network does to a delivery over HTTP: silence, cut connections, TLS, proxies."""

import asyncio
import ssl
from base64 import b64encode
from pathlib import Path

import pytest
import trustme

from bench.endpoint import Endpoint, Fault
from spool.records import Form
from tests.uploaders.deliveries import Payloads, a_delivery, a_payload, an_uploader, deliver
from tests.uploaders.proxy_server import Proxy
from uploaders.base import Delivered, RetryLater, Scope
from uploaders.http.pool import proxy_for
from uploaders.http.timeouts import Timeouts
from uploaders.http.uploader import HttpOptions, HttpUploader


async def test_a_silent_endpoint_is_given_up_in_time() -> None:
    """No answer within the time-out for it is a failure of this delivery alone."""
    payloads, delivery = a_payload()
    async with Endpoint(fault=Fault("hang")) as endpoint:
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE), timeouts=Timeouts(first_byte=0.05))
    assert outcome == RetryLater("the server read the request and did not respond within 0.05 s (first_byte_timeout)")


async def test_a_cut_connection_is_a_failure_of_the_delivery() -> None:
    """A connection that breaks before the answer is retried, and the destination goes on."""
    payloads, delivery = a_payload()
    async with Endpoint(fault=Fault("reset")) as endpoint:
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE))
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.RECORD
    assert "connection" in outcome.reason


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://localhost:{port}/dev/send-call-log?key=s3cr3t", "cannot connect: Connection refused"),
        ("http://no-such-host.invalid/dev", "host name cannot be resolved"),
        ("ftp://localhost/x", "not a valid HTTP URL"),
        ("http://", "not a valid HTTP URL"),
    ],
)
async def test_an_endpoint_that_cannot_be_reached_makes_the_destination_wait(url: str, words: str) -> None:
    """Where no connection comes about, everything for the destination waits, and no secret of the URL is told."""
    async with Endpoint() as endpoint:
        port = endpoint.port
    outcome = await deliver(url.format(port=port), Payloads(), a_delivery(form=Form.NOTICE, location="s3://b/k"))
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert words in outcome.reason
    assert "s3cr3t" not in outcome.reason


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


async def test_a_private_authority_is_trusted_when_configured(
    authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    """With ca_file, an endpoint whose certificate a private authority signed is delivered to."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    payloads, delivery = a_payload()
    async with Endpoint(tls=server_tls) as endpoint:
        assert endpoint.url.startswith("https://")
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE), ca_file=tmp_path / "ca.pem")
    assert outcome == Delivered()


async def test_an_unknown_authority_is_not_trusted(server_tls: ssl.SSLContext) -> None:
    """Without ca_file nothing is sent to an endpoint whose certificate nobody vouches for."""
    payloads, delivery = a_payload()
    async with Endpoint(tls=server_tls) as endpoint:
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE))
        assert endpoint.headers == []
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert "set ca_file" in outcome.reason


async def test_tls_to_a_plain_server_makes_the_destination_wait() -> None:
    """A failed TLS handshake is the destination's fault, not the record's."""
    payloads, delivery = a_payload()
    async with Endpoint() as endpoint:
        outcome = await deliver(endpoint.url.replace("http:", "https:"), payloads, delivery(Form.CORE))
    assert isinstance(outcome, RetryLater)
    assert outcome.scope is Scope.DESTINATION
    assert outcome.reason.startswith("TLS failed")


def test_a_missing_ca_file_is_an_error_at_once(tmp_path: Path) -> None:
    """A ca_file that is not there is found when the uploader is made, not at the first delivery."""
    with pytest.raises(FileNotFoundError):
        HttpUploader(HttpOptions("https://localhost", ca_file=tmp_path / "none.pem"), Payloads(), lambda: 0)


async def test_plain_requests_go_through_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used for an http endpoint, with its credentials in every request of a kept connection."""
    payloads, delivery = a_payload()
    async with Endpoint() as endpoint, Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with an_uploader(endpoint.url, payloads) as uploader:
            for form in (Form.CORE, Form.DETAIL):
                assert await uploader.deliver(delivery(form)) == Delivered()
        assert proxy.requests == [f"POST {endpoint.url}"]
        assert proxy.credentials == [b64encode(b"user:pr0xy-password")]
        assert [("Proxy-Authorization" in headers) for headers in endpoint.headers] == [True, True]


@pytest.mark.parametrize("exempt", ["localhost", "*", "example.com,localhost"])
async def test_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    """Hosts that NO_PROXY names are reached directly."""
    payloads, delivery = a_payload()
    async with Endpoint() as endpoint, Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", exempt)
        assert await deliver(endpoint.url, payloads, delivery(Form.CORE)) == Delivered()
        assert proxy.requests == []


@pytest.mark.parametrize(
    ("named", "url", "credentials"),
    [
        ("proxy.example:3128", "http://proxy.example:3128", None),
        ("http://proxy.example:3128", "http://proxy.example:3128", None),
        ("http://u:p%40ss@proxy.example:3128", "http://proxy.example:3128", b"u:p@ss"),
        ("http://u@proxy.example:3128", "http://proxy.example:3128", b"u:"),
    ],
)
def test_a_proxy_is_read_with_and_without_its_scheme_and_credentials(
    monkeypatch: pytest.MonkeyPatch, named: str, url: str, credentials: bytes | None
) -> None:
    """Credentials in a proxy's address are taken out of it, so that no error can show them."""
    monkeypatch.setenv("https_proxy", named)
    proxy = proxy_for("https://endpoint.example/")
    assert proxy is not None
    assert str(proxy.url).rstrip("/") == url
    assert proxy.headers == ({"Proxy-Authorization": f"Basic {b64encode(credentials).decode()}"} if credentials else {})
    assert "Basic" not in repr(proxy)
    assert proxy_for("http://endpoint.example/") is None


async def test_tls_goes_through_the_environments_proxy_end_to_end(
    authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY is asked to CONNECT, and TLS ends at the endpoint."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    payloads, delivery = a_payload()
    async with Endpoint(tls=server_tls) as endpoint, Proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        async with an_uploader(endpoint.url, payloads, ca_file=tmp_path / "ca.pem") as uploader:
            attempts = (uploader.deliver(delivery(Form.CORE)) for _ in range(2))
            assert await asyncio.gather(*attempts) == [Delivered(), Delivered()]
            assert await uploader.deliver(delivery(Form.NOTICE)) == Delivered()
        assert proxy.requests == 2 * [f"CONNECT localhost:{endpoint.port}"], "one for each connection"
        assert proxy.credentials == 2 * [b64encode(b"user:pr0xy-password")]


@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses_makes_the_destination_wait(
    server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """A proxy's refusal is not the record's fault, and its password is not told."""
    payloads, delivery = a_payload()
    async with Endpoint(tls=server_tls) as endpoint, Proxy(refuse=status) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        outcome = await deliver(endpoint.url, payloads, delivery(Form.CORE))
    assert outcome == RetryLater(f"the proxy refused to connect: HTTP {status}", Scope.DESTINATION)


async def test_a_cancelled_attempt_can_be_made_again() -> None:
    """Cancelling a request under way leaves the uploader usable, and the retry carries the same key."""
    payloads, delivery = a_payload()
    async with Endpoint(fault=Fault("hang")) as endpoint, an_uploader(endpoint.url, payloads) as uploader:
        attempt = asyncio.create_task(uploader.deliver(delivery(Form.CORE)))
        await endpoint.wait_until(lambda: len(endpoint.headers) == 1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        endpoint.set_fault(Fault())
        assert await uploader.deliver(delivery(Form.CORE)) == Delivered()
        assert {headers["Idempotency-Key"] for headers in endpoint.headers} == {"spool1-1-core"}
        assert endpoint.conflicts == []

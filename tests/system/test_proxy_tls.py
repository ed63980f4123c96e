"""Delivery through what companies put in between: certificates of their own authority, and a proxy."""

import ssl
from pathlib import Path

import trustme

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.system.acknowledged import acknowledged, assert_arrived
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until
from tests.uploaders.proxy_server import Proxy


def a_tls_endpoint(folder: Path) -> tuple[Endpoint, Path]:
    """An endpoint for https://localhost, and the file with the authority that vouches for it."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    return Endpoint(tls=tls), file


def table_of(url: str, *lines: str) -> str:
    """This endpoint, and these lines about it."""
    table = ["[[destinations]]", 'name = "endpoint"', 'type = "http"', f'url = "{url}"', *lines]
    return "\n".join([*table, 'retry = { initial = "0.2s", max = "0.5s" }'])


async def test_a_private_authority_is_trusted_when_it_is_configured(tmp_path: Path) -> None:
    """Without `ca_file` nothing is sent and the reason is told; with it, what waited is delivered."""
    endpoint, authority = a_tls_endpoint(tmp_path)
    body = make_call_log(6_000_000, seed=1)
    async with endpoint, GatewayProcess(tmp_path / "gateway", settings=table_of(endpoint.url)) as gateway:
        posted = acknowledged(body, await gateway.post(body))

        async def is_down() -> bool:
            return not (await gateway.destination())["up"]

        await until(is_down, "the certificate is found wanting")
        assert "certificate" in (await gateway.destination())["reason"].lower()
        assert endpoint.headers == []
        assert await gateway.hurry() == 0
        gateway.configure(table_of(endpoint.url, f'ca_file = "{authority}"'))
        await gateway.start()
        await endpoint.wait_for(2)
    assert_arrived(endpoint, posted)


async def test_a_proxy_is_used_and_its_password_kept(tmp_path: Path) -> None:
    """HTTPS_PROXY is heeded as by every other program; what stands in it is in no message."""
    endpoint, authority = a_tls_endpoint(tmp_path)
    body = make_call_log(2_000, seed=1)
    async with endpoint, Proxy() as proxy:
        settings = table_of(endpoint.url, f'ca_file = "{authority}"')
        async with GatewayProcess(tmp_path / "gateway", {"HTTPS_PROXY": proxy.url}, settings=settings) as gateway:
            posted = acknowledged(body, await gateway.post(body))
            await endpoint.wait_for(1)
        assert proxy.requests == [f"CONNECT localhost:{endpoint.port}"]
        assert "pr0xy-password" not in gateway.log
    assert_arrived(endpoint, posted)

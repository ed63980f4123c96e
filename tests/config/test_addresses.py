"""Tests of listen addresses, endpoint URLs, and what of them is shown."""

from pathlib import Path

import pytest

from config.values import ListenAddress, check_endpoint, is_loopback, mask_address, parse_asked, parse_listen


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("127.0.0.1:7717", "127.0.0.1", 7717),
        (" 0.0.0.0:0 ", "0.0.0.0", 0),
        ("[::1]:7717", "::1", 7717),
        ("localhost:65535", "localhost", 65535),
    ],
)
def test_a_listen_address_is_a_host_and_a_port(written: str, host: str, port: int) -> None:
    """HOST:PORT reads as its parts, and shows as it was written."""
    address = parse_listen(written)
    assert (address.host, address.port) == (host, port)
    assert str(address) == written.strip()
    assert parse_listen(address) is address


def test_a_unix_socket_is_an_address_too() -> None:
    """`unix:PATH`, relative or absolute, which only this machine reaches; a path has an end."""
    address = parse_listen("unix:/run/callspool/admin.sock")
    assert (address.path, address.loopback) == (Path("/run/callspool/admin.sock"), True)
    assert str(address) == "unix:/run/callspool/admin.sock"
    for wrong in ("unix:", f"unix:/{'x' * 107}"):
        with pytest.raises(ValueError, match="path of a Unix socket, of at most 107 bytes"):
            parse_listen(wrong)


def test_who_asks_may_ask_for_tls() -> None:
    """`https://` in front of an address; without it, and for a socket, settings decide."""
    assert parse_asked("https://gateway.example:7718/") == ListenAddress("gateway.example", 7718, secure=True)
    assert parse_asked("http://[::1]:7718") == ListenAddress("::1", 7718)
    assert parse_asked("unix:a.sock") == ListenAddress("", 0, Path("a.sock"))


@pytest.mark.parametrize(
    "written", ["", "localhost", ":7717", "127.0.0.1:", "h:65536", "h:-1", "::1:80", "[h]:80", "[::::]:80", 7717]
)
def test_what_is_no_listen_address_is_refused_with_an_example(written: object) -> None:
    """Anything that is no HOST:PORT is refused with examples."""
    with pytest.raises(ValueError, match=r"HOST:PORT, such as 127\.0\.0\.1:7717"):
        parse_listen(written)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_only_loopback_addresses_stay_on_the_machine(host: str, loopback: bool) -> None:
    """A host counts as local only where no other machine can reach it."""
    assert is_loopback(host) is loopback
    assert ListenAddress(host, 1).loopback is loopback


@pytest.mark.parametrize("url", ["http://h", "https://host:8443/dev/send-call-log?a=b", "http://[::1]:80/x"])
def test_an_http_url_is_taken_as_it_is(url: str) -> None:
    """An http or https URL with a host passes unchanged."""
    assert check_endpoint(url) == url


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("host/path", "http:// or https://"),
        ("ftp://host", "http:// or https://"),
        ("https://", "http:// or https://"),
        ("https://host:port/", "http:// or https://"),
        ("https://[::1/", "http:// or https://"),
        ("https://user:secret@host/", "set the destination's token instead"),
        ("https://user@host/", "set the destination's token instead"),
        ("https://host/#part", "fragment"),
        ("https://host/a b", "spaces"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_advice(url: str, advice: str) -> None:
    """A URL that is no endpoint's is refused, and the message says what would be right."""
    with pytest.raises(ValueError, match=advice):
        check_endpoint(url)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@host/x", "https://***@host/x"),
        ("https://host/x?code=abc&sig=d#f", "https://host/x?code=***&sig=***#f"),
        ("https://h/x?plain", "https://h/x?plain"),
        ("//a@b@c/", "//***@c/"),
        ("not an address", "not an address"),
    ],
)
def test_an_address_is_shown_without_credentials_and_query_values(address: str, shown: str) -> None:
    """Neither credentials nor the values of a query are shown, malformed addresses included."""
    assert mask_address(address) == shown

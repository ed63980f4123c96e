"""A destination that is the gateway's own intake is found, however its address is spelled, and no other one is."""

import socket
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from config.loader import load
from gateway.cli.options import addresses_of, addresses_without_names, own_intake_warnings

OWN = next(
    each.address
    for name, interface in psutil.net_if_addrs().items()
    for each in interface
    if each.family is socket.AF_INET and name != "lo"
)
"""An address of this machine that is not loopback."""
NAMES = {
    "agents-host": {ip_address("127.0.0.1")},
    "this-host": {ip_address(OWN)},
    "endpoint": {ip_address("192.0.2.7")},
}


def found(url: str, listen: str = "127.0.0.1:7717", *, names: bool = True) -> int:
    settings = load(None, {"CALLSPOOL_ENDPOINT_URL": url, "CALLSPOOL_INTAKE_LISTEN": listen}).settings
    resolve = (lambda host: NAMES.get(host) or addresses_without_names(host)) if names else None
    return len(list(own_intake_warnings(settings, resolve)))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "agent.localhost", "127.1", "0x7f000001", "2130706433",
        "0177.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "agents-host",
    ],
)  # fmt: skip
@pytest.mark.parametrize("listen", ["127.0.0.1:7717", "0.0.0.0:7717", "localhost:7717"])
def test_every_spelling_of_the_own_address_is_found(host: str, listen: str) -> None:
    """Names, numbers in every base, and what stands for any address of the machine."""
    assert found(f"http://{host}:7717/send-call-log", listen) == 1


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        (f"http://{OWN}:7717/x", "0.0.0.0:7717"),
        (f"http://{OWN}:7717/x", f"{OWN}:7717"),
        ("http://this-host:7717/x", "[::]:7717"),
        ("http://[::1]:7717/x", "[::1]:7717"),
        ("http://[::1]:7717/x", "[::]:7717"),
        ("http://127.0.0.1/x", "127.0.0.1:80"),
        ("https://127.0.0.1/x", "127.0.0.1:443"),
        ("http://127.0.0.6:7717/x", "0.0.0.0:7717"),
    ],
)
def test_the_addresses_of_the_interfaces_and_default_ports_are_found(url: str, listen: str) -> None:
    """An intake on every interface is reached by each of them, and a URL without a port has one."""
    assert found(url, listen) == 1


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://127.0.0.1:7718/x", "127.0.0.1:7717"),
        (f"http://{OWN}:7717/x", "127.0.0.1:7717"),
        ("http://endpoint:7717/x", "0.0.0.0:7717"),
        ("http://192.0.2.7:7717/x", "0.0.0.0:7717"),
        ("http://unknown.invalid:7717/x", "0.0.0.0:7717"),
        ("http://[::1]:7717/x", "127.0.0.1:7717"),
        ("https://host/x", "0.0.0.0:7717"),
    ],
)
def test_what_leads_elsewhere_is_no_concern(url: str, listen: str) -> None:
    """Another port, another machine, or an address of this one at which the intake does not listen."""
    assert found(url, listen) == 0


def test_a_start_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a resolver, only what needs none is looked at."""
    asked: list[tuple[str, int]] = []

    def no_address(host: str, *_: object, flags: int = 0, **__: object) -> list[object]:
        asked.append((host, flags))
        return []

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    assert found("http://agents-host:7717/x", names=False) == 0
    assert all(flags == socket.AI_NUMERICHOST for host, flags in asked if host == "agents-host")
    assert addresses_of("agents-host") == set()


def test_where_addresses_are_asked_for_counts_too(tmp_path: Path) -> None:
    """A gateway that asks itself for upload addresses is in the same loop."""
    file = tmp_path / "c.toml"
    file.write_text(
        '[[destinations]]\nname = "a"\ntype = "presigned"\nurl = "https://host/send-call-log"\n'
        'presigned.address_url = "http://localhost:7717/get-upload-url"\n'
    )
    (warning,) = own_intake_warnings(load(file, {}).settings)
    assert warning.startswith("destinations[a].presigned.address_url is this gateway's own intake (127.0.0.1:7717)")

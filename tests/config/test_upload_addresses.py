"""Tests of endpoints that give upload addresses: for what is large, or for everything."""

import pytest
from pydantic import ValidationError

from config.destinations import HttpDestination, LaneConcurrency, PresignedDestination, TokenMode
from config.destinations.base import EndpointTable, PresignedSettings, address_url_warnings
from config.loader import load
from tests.config.conftest import WriteFile, problems

SENDING = "https://host/dev/send-call-log"
KINDS: dict[str, tuple[type[HttpDestination] | type[PresignedDestination], dict[str, str]]] = {
    "http": (HttpDestination, {"large": "presigned"}),
    "presigned": (PresignedDestination, {}),
}


def endpoint(kind: str, **fields: object) -> HttpDestination | PresignedDestination:
    model, usual = KINDS[kind]
    return model.model_validate({"name": "a", "type": kind, **usual, **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_upload_addresses_are_asked_for_where_they_can_be(kind: str) -> None:
    """The address to ask at is made of the endpoint's URL; where it cannot be, it is to be given."""
    assert endpoint(kind, url=SENDING).presigned.address_url is None
    given = endpoint(kind, url="https://host/x", presigned={"address_url": "https://host/y"})
    assert given.presigned.address_url == "https://host/y"


def test_who_uploads_nothing_needs_no_place_to_ask() -> None:
    """An endpoint that gets everything posted may have any URL."""
    assert endpoint("http", url="https://host/x", large="whole").presigned.reference is False


@pytest.mark.parametrize("text", ['type = "http"\nlarge = "presigned"', 'type = "presigned"'], ids=KINDS)
def test_an_endpoint_that_cannot_be_asked_for_addresses_is_a_problem(write_file: WriteFile, text: str) -> None:
    """The setting that is missing is named."""
    found = problems(write_file(f'[[destinations]]\nname = "a"\nurl = "https://host/logs"\n{text}\n'))
    assert "/send-call-log" in found["destinations[a].presigned.address_url"].advice


def test_where_everything_is_uploaded_a_url_is_enough() -> None:
    """The agents' tokens are forwarded, nobody is told afterwards, and lanes are those of an endpoint."""
    found = endpoint("presigned", url=SENDING)
    assert (found.token_mode, found.presigned.reference) == (TokenMode.FORWARD, False)
    assert (found.concurrency, found.presigned.timeout) == (LaneConcurrency(core=8, detail=2), 900.0)


@pytest.mark.parametrize("field", ["encoding", "large", "max_request_bytes", "detail", "when_too_large"])
def test_what_is_about_requests_says_nothing_of_uploads(write_file: WriteFile, field: str) -> None:
    """A setting that would be without effect is unknown there."""
    file = write_file(f'[[destinations]]\nname = "a"\ntype = "presigned"\nurl = "{SENDING}"\n{field} = "x"\n')
    assert "is unknown" in problems(file)[f"destinations[a].{field}"].advice


@pytest.mark.parametrize("kind", KINDS)
def test_what_endpoints_have_in_common_is_checked_alike(kind: str) -> None:
    """A token that no header takes and a mode without its token are refused, whatever is sent there."""
    assert issubclass(KINDS[kind][0], EndpointTable)
    for fields in ({"token": "two\nlines"}, {"token_mode": "replace"}):
        with pytest.raises(ValueError, match=r"visible ASCII|needs `token`"):
            endpoint(kind, url=SENDING, **fields)


@pytest.mark.parametrize(
    ("url", "address_url", "said"),
    [
        ("http://host/send-call-log", "", ["url"]),
        (SENDING, "http://host/x", ["presigned.address_url"]),
        ("http://127.0.0.1/send-call-log", "http://localhost/x", []),
        (SENDING, "https://host/x", []),
    ],
)
def test_a_readable_line_is_allowed_with_a_warning(
    write_file: WriteFile, url: str, address_url: str, said: list[str]
) -> None:
    """Tokens cross it, and whoever is on the way could say where call logs are uploaded to."""
    text = f'[[destinations]]\nname = "a"\ntype = "presigned"\nurl = "{url}"\n'
    if address_url:
        text += f'presigned = {{ address_url = "{address_url}" }}\n'
    warnings = load(write_file(text), {}).warnings
    assert [each.partition(" is not https")[0] for each in warnings] == [f"destinations[a].{key}" for key in said]


@pytest.mark.parametrize("hosts", [["http://host"], ["host:80"], ["10.0.0.0/40"], ["*"], [""], 7])
def test_what_is_no_host_is_refused(hosts: object) -> None:
    """Entries of `upload_hosts` are names, `*.names`, addresses and networks: a URL would never match a host."""
    with pytest.raises(ValidationError):
        PresignedSettings.model_validate({"upload_hosts": hosts})


def test_a_list_with_the_metadata_service_in_it_is_warned_of() -> None:
    """`check-config` says when an endpoint may have call logs uploaded to where clouds give out credentials."""
    listed = PresignedSettings.model_validate({"upload_hosts": ["minio.corp", "*.corp", "169.254.0.0/16"]})
    assert any("169.254.169.254" in warning for warning in address_url_warnings("main", listed))
    assert not list(address_url_warnings("main", PresignedSettings.model_validate({"upload_hosts": ["10.0.0.0/8"]})))

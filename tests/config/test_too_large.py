"""Tests of what an endpoint is sent of details, and of where goes what it refuses as too large."""

import pytest

from config.destinations import DetailSent, Fallback, HttpDestination
from config.loader import effective_settings, load
from tests.config.conftest import WriteFile, problems

HTTP = '[[destinations]]\nname = "a"\ntype = "http"\nurl = "https://host{path}"\n'
S3 = '[[destinations]]\nname = "b"\ntype = "s3"\nbucket = "calls"\n'
SENDING = "/dev/send-call-log"
KEY = "destinations[a]."


def endpoint(write_file: WriteFile, text: str, *, path: str = SENDING, others: str = "") -> HttpDestination:
    (found,) = [
        each
        for each in load(write_file(HTTP.format(path=path) + text + "\n" + others), {}).settings.destinations
        if isinstance(each, HttpDestination)
    ]
    return found


def test_by_default_details_are_sent_in_full_and_nothing_goes_on(write_file: WriteFile) -> None:
    """Nobody's data is reduced, and no address is asked for, unless that was allowed."""
    found = endpoint(write_file, "")
    assert (found.detail, found.when_too_large) == (DetailSent.FULL, ())


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("when_too_large = []", ()),
        ('when_too_large = "none"', ()),
        ('when_too_large = ["critical"]', (Fallback.CRITICAL,)),
        ('when_too_large = "presigned, top_n"', (Fallback.PRESIGNED, Fallback.TOP_N)),
        ('when_too_large = ["Presigned", "critical"]', (Fallback.PRESIGNED, Fallback.CRITICAL)),
        ('presigned.address_url = "https://host/addresses"', (Fallback.PRESIGNED,)),
        ('presigned.address_url = "https://host/addresses"\nwhen_too_large = ["top_n"]', (Fallback.TOP_N,)),
        ('presigned.address_url = "https://host/addresses"\ndetail = "none"', ()),
        ('presigned.address_url = "https://host/addresses"\nlarge = "presigned"', ()),
        ('detail = "critical"\nwhen_too_large = ["presigned"]', (Fallback.PRESIGNED,)),
    ],
)
def test_fallbacks_are_read(write_file: WriteFile, text: str, ways: tuple[Fallback, ...]) -> None:
    """A list or a text; upload addresses are used by themselves where it is said where to ask for them."""
    assert endpoint(write_file, text).when_too_large == ways


@pytest.mark.parametrize("ways", ['["s3"]', '["presigned", "s3"]'])
def test_a_bucket_is_a_way_on_where_it_notifies_the_endpoint(write_file: WriteFile, ways: str) -> None:
    """Which bucket is meant is said by its own `notify`."""
    found = endpoint(write_file, f"when_too_large = {ways}", others=S3 + 'notify = "a"')
    assert found.when_too_large[-1] is Fallback.S3


@pytest.mark.parametrize("others", ["", S3])
def test_a_bucket_that_does_not_notify_is_no_way_on(write_file: WriteFile, others: str) -> None:
    """The endpoint would never learn of the object."""
    file = write_file(HTTP.format(path=SENDING) + 'when_too_large = ["s3"]\n' + others)
    assert "notifies this one" in problems(file)[KEY + "when_too_large"].advice


@pytest.mark.parametrize(
    ("text", "key", "advice"),
    [
        ('when_too_large = ["email"]', "when_too_large", "presigned, s3, critical, top_n"),
        ("when_too_large = 7", "when_too_large", "a list of"),
        ('when_too_large = ["critical", "top_n"]', "when_too_large", "one of them"),
        ('when_too_large = ["critical", "presigned"]', "when_too_large", "one of them"),
        ('when_too_large = ["presigned", "presigned"]', "when_too_large", "one of them"),
        ('when_too_large = ["presigned", "critical", "top_n"]', "when_too_large", "one of them"),
        ('large = "whole"\nwhen_too_large = ["presigned"]', "when_too_large", 'large = "two_phase"'),
        ('detail = "top_n"\nwhen_too_large = ["critical"]', "when_too_large", 'detail = "full"'),
        ('detail = "none"\nwhen_too_large = ["s3"]\n' + S3 + 'notify = "a"', "when_too_large", "no fallback can apply"),
        ('large = "whole"\ndetail = "none"', "detail", 'large = "two_phase"'),
        ('detail = "some"', "detail", "full"),
        ("top_n = 0", "top_n", "1"),
    ],
)
def test_what_cannot_be_meant_is_told(write_file: WriteFile, text: str, key: str, advice: str) -> None:
    """Each problem names its key and what would be right."""
    assert advice in problems(write_file(HTTP.format(path=SENDING) + text))[KEY + key].advice


def test_upload_addresses_need_a_place_to_ask(write_file: WriteFile) -> None:
    """Where the URL is not the SDK's own, that has to be said."""
    text = 'when_too_large = ["presigned"]\n'
    found = problems(write_file(HTTP.format(path="/in") + text))
    assert "presigned.address_url" in found[KEY + "when_too_large"].advice
    address = 'presigned.address_url = "https://host/addresses"\n'
    assert endpoint(write_file, text + address, path="/in").when_too_large == (Fallback.PRESIGNED,)


def test_a_list_is_shown_with_its_origin(write_file: WriteFile) -> None:
    """What is in effect is written as people write it, and names the file that said so."""
    file = write_file(HTTP.format(path=SENDING) + 'when_too_large = ["presigned", "critical"]')
    (shown,) = [each for each in effective_settings(load(file, {})) if each.key == KEY + "when_too_large"]
    assert shown.value == "presigned, critical"
    assert str(file) in shown.origin

"""The settings repeat words of the parts that they are for, since they import nothing of ours: both say the same."""

from enum import StrEnum

import pytest

from config import destinations
from config.destinations import s3
from config.destinations.base import DetailSent
from gateway import fanout
from gateway.runtime.destinations import ENCRYPTION, FORM_OF_DETAILS
from uploaders.document import encoding
from uploaders.s3 import options


@pytest.mark.parametrize(
    ("setting", "own"),
    [
        (destinations.Encoding, encoding.Encoding),
        (destinations.Large, fanout.Large),
        (s3.ObjectContent, options.Content),
        (s3.ObjectEncoding, options.ObjectEncoding),
    ],
)
def test_both_know_the_same_words(setting: type[StrEnum], own: type[StrEnum]) -> None:
    """A word that only one of them knows could not be configured, or would fail at the start."""
    assert {each.name: each.value for each in setting} == {each.name: each.value for each in own}


def test_every_encryption_stands_for_one_of_the_uploaders() -> None:
    """People write words, S3 has its own: each belongs to exactly one of the other kind."""
    assert set(ENCRYPTION) == set(s3.Encryption)
    assert sorted(ENCRYPTION.values()) == sorted(options.ServerSideEncryption)


def test_everything_that_may_be_sent_of_details_has_its_form() -> None:
    """None is forgotten."""
    assert set(FORM_OF_DETAILS) == set(DetailSent)

"""Tests of the settings of buckets, and of who notifies whom."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from config.destinations import S3Destination
from config.loader import load
from config.values import MIB
from tests.config.conftest import WriteFile, problems
from tests.config.destinations import s3_destination
from uploaders.s3.options import ObjectContent, ObjectEncoding, ServerSideEncryption

KEY = "a2V5IG9mIHRoaXJ0eS10d28gYnl0ZXMsIGZvciBTMyE="
ENDPOINT = {"CALLSPOOL_ENDPOINT_URL": "https://host/dev/send-call-log"}
STORE = {"CALLSPOOL_DATABASE_URL": "sqlite:///calls.db"}
BUCKET = {"CALLSPOOL_S3_BUCKET": "calls"}
HTTP = '[[destinations]]\nname = "{name}"\ntype = "http"\nurl = "https://host/dev/send-call-log"\n'
S3 = '[[destinations]]\nname = "{name}"\ntype = "s3"\nbucket = "calls"\n'


def loaded_bucket(environment: dict[str, str], file: Path | None = None) -> S3Destination:
    destinations = load(file, environment).settings.destinations
    (found,) = [each for each in destinations if isinstance(each, S3Destination)]
    return found


def test_a_bucket_needs_a_name_alone() -> None:
    """Everything else has a default that suits Amazon S3, encrypted, in a folder of its own."""
    found = s3_destination()
    assert (found.prefix, found.notify, found.endpoint_url, found.path_style) == ("callspool", None, None, None)
    assert (found.object, found.encoding) == (ObjectContent.DETAIL, ObjectEncoding.ZSTD)
    assert (found.encryption, found.part_size) == (ServerSideEncryption.AES256, 8 * MIB)


def test_a_bucket_variable_alone_is_a_destination() -> None:
    """CALLSPOOL_S3_BUCKET adds a destination named s3 that stands alone; the other variables add to it."""
    more = {"CALLSPOOL_S3_ENDPOINT_URL": "http://127.0.0.1:9000", "CALLSPOOL_S3_PREFIX": "a/b/"}
    found = loaded_bucket({**BUCKET, **more})
    assert (found.name, found.bucket, found.notify) == ("s3", "calls", None)
    assert (found.endpoint_url, found.prefix) == ("http://127.0.0.1:9000", "a/b")


def test_beside_an_endpoint_the_bucket_of_the_variable_notifies_it() -> None:
    """Both variables together mean: the core to the endpoint, the detail to the bucket, a notice of it."""
    loaded = load(None, {**ENDPOINT, **BUCKET})
    assert [each.name for each in loaded.settings.destinations] == ["endpoint", "s3"]
    assert loaded_bucket({**ENDPOINT, **BUCKET}).notify == "endpoint"
    assert loaded.origins["destinations", 1, "notify"] == "CALLSPOOL_S3_BUCKET"


@pytest.mark.parametrize(
    ("text", "notified"),
    [
        (HTTP.format(name="a"), "a"),
        (HTTP.format(name="a") + HTTP.format(name="b"), None),
        (HTTP.format(name="a") + HTTP.format(name="endpoint"), "endpoint"),
        (HTTP.format(name="a") + 'large = "presigned"\n', None),
        (HTTP.format(name="a").replace('"http"', '"presigned"'), None),
        (HTTP.format(name="a") + S3.format(name="s3") + 'notify = "none"\n', None),
        (HTTP.format(name="a") + S3.format(name="s3"), "a"),
    ],
)
def test_the_bucket_of_the_variable_notifies_only_where_there_is_no_doubt(
    write_file: WriteFile, text: str, notified: str | None
) -> None:
    """The endpoint of the variables or the only one there is; a file that says otherwise wins."""
    assert loaded_bucket(BUCKET, write_file(text)).notify == notified


def test_only_the_variable_that_names_the_bucket_decides_about_the_notice(write_file: WriteFile) -> None:
    """A bucket that the file has by itself notifies nobody unless the file says so."""
    file = write_file(HTTP.format(name="a") + S3.format(name="s3"))
    assert loaded_bucket({"CALLSPOOL_S3_PREFIX": "p"}, file).notify is None


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (S3.format(name="s3") + 'notify = "a"', "should be the name of an http or kafka destination: there is none"),
        (
            HTTP.format(name="a") + S3.format(name="s3") + 'notify = "s3"',
            "should be the name of an http or kafka destination: a",
        ),
        (HTTP.format(name="a") + 'large = "whole"\n' + S3.format(name="s3") + 'notify = "a"', 'large = "two_phase"'),
        (
            HTTP.format(name="a") + S3.format(name="one") + 'notify = "a"\n' + S3.format(name="s3") + 'notify = "a"',
            "one already does: one",
        ),
    ],
)
def test_a_notice_that_could_not_be_sent_is_a_problem(write_file: WriteFile, text: str, advice: str) -> None:
    """`notify` names an endpoint that waits for notices, and no endpoint has two buckets."""
    found = problems(write_file(text))["destinations[s3].notify"]
    assert advice in found.advice


def test_a_variable_without_a_bucket_is_a_problem() -> None:
    """A prefix for no bucket is never silently without effect."""
    assert "CALLSPOOL_S3_BUCKET" in problems(None, {"CALLSPOOL_S3_PREFIX": "x"})["CALLSPOOL_S3_PREFIX"].advice


@pytest.mark.parametrize(
    "fields",
    [
        {"bucket": "s3://calls"},
        {"bucket": "x"},
        {"prefix": "/a"},
        {"prefix": "a/../b"},
        {"key": "{call_id}"},
        {"key": "{record}"},
        {"kms_key_id": "k"},
        {"storage_class": "two words"},
        {"token_in_whole": True},
        {"part_size": "4MiB"},
        {"part_size": "6GiB"},
        {"parts_at_once": 0},
        {"encryption": "rot13"},
        {"encryption": "customer"},
        {"customer_key": KEY},
        {"encryption": "customer", "customer_key": "c2hvcnQ="},
        {"encryption": "customer", "customer_key": KEY, "endpoint_url": "http://minio:9000"},
        {"endpoint_url": "127.0.0.1:9000"},
    ],
)
def test_a_bucket_that_could_not_work_is_refused(fields: dict[str, object]) -> None:
    """No combination that could not work is taken."""
    with pytest.raises(ValidationError):
        s3_destination(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"encryption": "AES256"},
        {"encryption": "kms", "kms_key_id": "alias/calls"},
        {"encryption": "customer", "customer_key": KEY},
        {"encryption": "customer", "customer_key": KEY, "endpoint_url": "http://127.0.0.1:9000"},
        {"object": "whole", "token_in_whole": True},
        {"prefix": "", "key": "{record_id}"},
        {"path_style": True, "region": "eu-central-1", "storage_class": "STANDARD_IA"},
    ],
)
def test_what_a_bucket_can_be_told(fields: dict[str, object]) -> None:
    """Case does not matter where it carries no meaning, and settings that belong together are taken together."""
    assert s3_destination(**fields)


@pytest.mark.parametrize(
    ("url", "said"), [("http://minio:9000", True), ("https://minio:9000", False), ("http://127.0.0.1:9000", False)]
)
def test_a_bucket_over_a_readable_line_is_allowed_with_a_warning(url: str, said: bool) -> None:
    """Signatures protect credentials, not call logs; on this machine there is nobody on the way."""
    warnings = load(None, {**BUCKET, "CALLSPOOL_S3_ENDPOINT_URL": url}).warnings
    assert any("destinations[s3].endpoint_url is not https" in each for each in warnings) is said


@pytest.mark.parametrize(
    ("url", "said"), [("http://minio:9000", True), ("https://minio:9000", False), ("http://127.0.0.1:9000", False)]
)
def test_references_are_read_over_such_a_line_as_well_but_without_a_key(url: str, said: bool) -> None:
    """A key of one's own goes with each request: whoever is on the way would have it."""
    given = {**STORE, "CALLSPOOL_REFERENCES_BUCKETS": "calls", "CALLSPOOL_REFERENCES_ENDPOINT_URL": url}
    warnings = load(None, given).warnings
    assert any("references.endpoint_url is not https" in each for each in warnings) is said
    given["CALLSPOOL_REFERENCES_CUSTOMER_KEY"] = KEY
    if said:
        assert list(problems(None, given)) == ["references.customer_key"]
    else:
        assert load(None, given).settings.references.customer_key is not None

"""Sources of webhooks: what is missing is said before a provider finds out, and recordings have a place."""

import pytest

from config.loader import load
from tests.config.conftest import WriteFile, problems

BUCKET = '[[destinations]]\nname = "b"\ntype = "s3"\nbucket = "bucket"\n'
ENDPOINT = '[[destinations]]\nname = "e"\ntype = "http"\nurl = "https://host/x"\n'
COPYING = (
    '[webhooks]\nlisten = "127.0.0.1:0"\n{}\n'
    '[[sources]]\nname = "r"\nprovider = "retell"\nsecrets = ["a-secret-of-16"]\nrecordings = "copy"\n'
)


@pytest.mark.parametrize(
    ("provider", "webhooks", "said"),
    [
        ("retell", "", ["sources[r].secrets is empty"]),
        ("twilio", "", ["sources[r].secrets is empty", "set webhooks.public_url"]),
        ("twilio", 'public_url = "https://hooks.example.com"', ["sources[r].secrets is empty"]),
        ("retell", 'recording_hosts = ["169.254.0.0/16"]', ["sources[r].secrets is empty", "169.254.169.254"]),
    ],
)
def test_what_keeps_a_source_from_working_is_said(
    write_file: WriteFile, provider: str, webhooks: str, said: list[str]
) -> None:
    """By `check-config`, `doctor` and the log of the start; it is no error, so that others are taken meanwhile."""
    source = f'[[sources]]\nname = "r"\nprovider = "{provider}"\n'
    found = load(write_file(f'[webhooks]\nlisten = "127.0.0.1:0"\n{webhooks}\n{source}{ENDPOINT}'), {}).warnings
    assert len(found) == len(said)
    assert all(words in warning for words, warning in zip(said, found, strict=True))


ACME = '[tenants.acme]\nagents = "a"\ndestinations = ["b"]\n'


@pytest.mark.parametrize(
    ("webhooks", "more", "blamed"),
    [
        ('recordings = "/recordings"', ENDPOINT, None),
        ("", BUCKET, None),
        ("", ENDPOINT, "webhooks.recordings"),
        ("", BUCKET + ACME, "webhooks.recordings"),
        ("", f'tenant = "acme"\n{BUCKET}{ACME}', None),
        ("", f'tenant = "globex"\n{BUCKET}{ACME}[tenants.globex]\n', "webhooks.recordings"),
        ("", BUCKET + BUCKET.replace('"b"', '"c"') + ACME, None),
        ('recordings = "/recordings"', ENDPOINT.replace('"e"', '"recordings"'), "destinations[recordings]"),
    ],
    ids=[
        "directory", "bucket", "neither", "a tenant's bucket", "the bucket of its tenant", "another tenant's bucket",
        "another bucket", "a destination of that name",
    ],
)  # fmt: skip
def test_copied_recordings_need_a_place(write_file: WriteFile, webhooks: str, more: str, blamed: str | None) -> None:
    """A directory, or a bucket that is no tenant's own, since what is in that is for the tenant to read; or that of the
    tenant whose calls the source brings. What is missing stands under the setting that would mend it."""
    file = write_file(COPYING.format(webhooks) + more)
    if blamed is None:
        assert load(file, {}).settings.sources[0].copies
    else:
        found = problems(file)
        assert list(found) == [blamed]
        assert "recordings" in found[blamed].advice

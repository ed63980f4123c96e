"""What lies in a bucket, and is referred to: a failure that may pass makes no dead letter of the note."""

import sys
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest

from gateway.intake import parse_worker
from gateway.intake.accept import UNKNOWN
from gateway.intake.body_reader import BodyLimits
from gateway.references import ReferenceFailure, ReferenceReader
from tests.intake.running_intake import running
from uploaders.base import Refused, RetryLater

NOTE = b'{"s3_bucket": "bucket", "s3_key": "key", "call_id": "c"}'
LARGE = b'{"call_id": "c", "said": "%b"}' % (b"x" * 9_000_000)


class Kept:
    """A bucket with one object."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def called(self, _name: str) -> "Kept":
        return self

    async def read(self, _key: str, _tenants: Collection[str] | None) -> AsyncIterator[bytes]:
        yield self._content


async def test_an_object_that_cannot_be_parsed_now_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that parses it may have been out of memory; one that is too large stays refused."""
    async with running(tmp_path, bodies=BodyLimits(inline_max=1 << 20, body_max=10_000_000)) as world:

        async def outcome(content: bytes) -> object:
            unused: Any = None
            kept: Any = Kept(content)
            reader = ReferenceReader(
                unused, kept, ["bucket"], world.intake.reader, world.intake.acceptor, world.metrics
            )
            with pytest.raises(ReferenceFailure) as failed:
                async with reader.read(NOTE, "c", UNKNOWN):
                    pass
            return failed.value.outcome

        with monkeypatch.context() as patched:
            patched.setattr(parse_worker, "_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
            found = await outcome(LARGE)
        assert isinstance(found, RetryLater)
        assert found.after_seconds
        assert "status 3" in found.reason
        assert isinstance(await outcome(LARGE + b" " * 1_000_000), Refused)

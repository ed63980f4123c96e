"""What becomes of errors of the parts below."""

import pytest

from gateway.intake.responses import translate
from spool.errors import CorruptDatabase, NotStorable, SpoolFull, SpoolUnavailable


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotStorable("a number beyond 64 bits"), 422, "not_storable"),
        (SpoolFull("full", used_bytes=1, limit_bytes=1), 507, "spool_full"),
        (SpoolFull("full", used_bytes=1, limit_bytes=None), 507, "disk_full"),
        (SpoolUnavailable("closed"), 503, "spool_unavailable"),
        (CorruptDatabase("malformed"), 503, "spool_unavailable"),
        (MemoryError(), 503, "memory_budget"),
        (OSError(28, "No space left on device"), 507, "disk_full"),
    ],
)
def test_errors_of_the_spool_have_an_answer(error: Exception, status: int, code: str) -> None:
    """What passes is answered so that the sender keeps its call log; what no retry can store, as its own mistake."""
    rejection = translate(error)
    assert rejection is not None
    assert (rejection.status, rejection.code) == (status, code)
    assert (rejection.retry_after is not None) == (status >= 500)


def test_what_nobody_foresaw_is_not_guessed_at() -> None:
    """An unexpected error has no translation: the handler logs it and answers 503."""
    assert translate(KeyError("x")) is None

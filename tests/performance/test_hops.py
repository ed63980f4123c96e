"""How many files a request passes: a bound that only goes down."""

import pytest

from bench.hops import ACCEPTED, REPEATED, STORED, Way, count_hops

MOST_FILES = {ACCEPTED: 30, STORED: 55, REPEATED: 50}


@pytest.fixture(scope="module")
def ways() -> dict[str, Way]:
    """Measured with five requests of each kind, so that what runs beside them falls out."""
    counted, _ = count_hops(5)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("request_kind", MOST_FILES)
def test_a_request_passes_few_files(ways: dict[str, Way], request_kind: str) -> None:
    """Each file that a request passes must decide something; whoever adds one removes another."""
    if request_kind not in ways:
        pytest.skip("the S3 server does not start here")
    assert len(ways[request_kind].files) <= MOST_FILES[request_kind], sorted(ways[request_kind].files)

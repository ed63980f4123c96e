"""Two uploaders behind one destination."""

import pytest

from spool.records import Delivery, Form, Lane
from tests.uploaders.deliveries import a_delivery
from uploaders.base import Delivered, Outcome
from uploaders.presigned import RoutingUploader

LARGE = frozenset({Lane.DETAIL})
EVERYTHING = frozenset(Lane)


class Noting:
    """Notes what it is given."""

    def __init__(self, *, fails: bool = False) -> None:
        self.delivered: list[Delivery] = []
        self.closed = False
        self._fails = fails

    async def deliver(self, delivery: Delivery) -> Outcome:
        self.delivered.append(delivery)
        return Delivered()

    async def close(self) -> None:
        self.closed = True
        if self._fails:
            raise OSError("stuck")


@pytest.mark.parametrize(
    ("form", "lane", "uploaded_by"),
    [
        (Form.WHOLE, Lane.DETAIL, {LARGE, EVERYTHING}),
        (Form.WHOLE, Lane.CORE, {EVERYTHING}),
        (Form.CORE, Lane.CORE, set()),
        (Form.DETAIL, Lane.DETAIL, set()),
        (Form.NOTICE, Lane.CORE, set()),
    ],
)
@pytest.mark.parametrize("lanes", [LARGE, EVERYTHING], ids=["large", "everything"])
async def test_only_wholes_of_these_lanes_are_uploaded(
    form: Form, lane: Lane, uploaded_by: set[frozenset[Lane]], lanes: frozenset[Lane]
) -> None:
    """Notices, and what was split before the setting was changed, are posted."""
    posting, uploading = Noting(), Noting()
    delivery = a_delivery(form=form, lane=lane)
    assert await RoutingUploader(posting, uploading, lanes).deliver(delivery) == Delivered()
    used, unused = (uploading, posting) if lanes in uploaded_by else (posting, uploading)
    assert (used.delivered, unused.delivered) == ([delivery], [])


async def test_both_are_closed_whatever_happens() -> None:
    """A connection that cannot be closed keeps no other open."""
    posting, uploading = Noting(fails=True), Noting()
    with pytest.raises(OSError, match="stuck"):
        await RoutingUploader(posting, uploading, LARGE).close()
    assert (posting.closed, uploading.closed) == (True, True)

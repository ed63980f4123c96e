"""Two uploaders behind one destination."""

import pytest

from spool.records import Delivery, Form, Lane
from tests.uploaders.building import a_delivery
from uploaders.by_size import BySizeUploader
from uploaders.uploader import Delivered, Outcome


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
    ("form", "lane", "is_large"),
    [
        (Form.WHOLE, Lane.DETAIL, True),
        (Form.WHOLE, Lane.CORE, False),
        (Form.CORE, Lane.CORE, False),
        (Form.DETAIL, Lane.DETAIL, False),
        (Form.NOTICE, Lane.CORE, False),
    ],
)
async def test_only_a_large_whole_goes_by_the_second(form: Form, lane: Lane, is_large: bool) -> None:
    """Notices, small ones, and what was split before the setting was changed go by the first."""
    small, large = Noting(), Noting()
    delivery = a_delivery(form=form, lane=lane)
    assert await BySizeUploader(small, large).deliver(delivery) == Delivered()
    assert (large if is_large else small).delivered == [delivery]
    assert (small if is_large else large).delivered == []


async def test_both_are_closed_whatever_happens() -> None:
    """A connection that cannot be closed keeps no other open."""
    small, large = Noting(fails=True), Noting()
    with pytest.raises(OSError, match="stuck"):
        await BySizeUploader(small, large).close()
    assert (small.closed, large.closed) == (True, True)

"""Lets two uploaders share a destination: one for what is small, one for large call logs in one piece."""

from spool.records import Delivery, Form, Lane
from uploaders.uploader import Outcome, Uploader


class BySizeUploader:
    """Wholes in the detail lane, which is where large ones are, go by `large`, everything else by `small`."""

    def __init__(self, small: Uploader, large: Uploader) -> None:
        self._small = small
        self._large = large

    async def deliver(self, delivery: Delivery) -> Outcome:
        """One attempt by the uploader that it is for."""
        is_large = delivery.form is Form.WHOLE and delivery.lane is Lane.DETAIL
        return await (self._large if is_large else self._small).deliver(delivery)

    async def close(self) -> None:
        """Close both, the second even if the first fails."""
        try:
            await self._small.close()
        finally:
            await self._large.close()

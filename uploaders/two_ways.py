"""Lets two uploaders share an endpoint: one posts to it, the other puts wholes to upload addresses that it gives."""

from collections.abc import Set

from spool.records import Delivery, Form, Lane
from uploaders.uploader import Outcome, Uploader


class TwoWaysUploader:
    """Wholes of `uploaded_lanes` are uploaded; everything else is posted.

    Large wholes are in the detail lane. Notices are posted, and so are cores and details that were owed before the
    configuration was changed: their wholes would come twice.
    """

    def __init__(self, posting: Uploader, uploading: Uploader, uploaded_lanes: Set[Lane]) -> None:
        self._posting = posting
        self._uploading = uploading
        self._uploaded_lanes = uploaded_lanes

    async def deliver(self, delivery: Delivery) -> Outcome:
        """One attempt by the uploader that it is for."""
        is_uploaded = delivery.form is Form.WHOLE and delivery.lane in self._uploaded_lanes
        return await (self._uploading if is_uploaded else self._posting).deliver(delivery)

    async def close(self) -> None:
        """Close both, the second even if the first fails."""
        try:
            await self._posting.close()
        finally:
            await self._uploading.close()

"""The bytes of one request to a bucket, which a bandwidth limit may hold back on their way out.

The S3 library hands a body to the HTTP client as it is, and that asks by its type how to send it: so the waiting is
in the sending, slice by slice, and not in front of a part of 8 MiB that would then leave in one burst.
"""

import asyncio
import io

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Order, Payload, payload_type

from uploaders.bandwidth import paced
from uploaders.sending import SLICE_BYTES, Pace


class PartData(io.BytesIO):
    """In memory; `pace` holds it back while it is sent, which counts for no time-out."""

    pace: Pace | None = None
    timer: asyncio.Timeout | None = None
    """The time-out of the request that sends it."""

    async def wait(self, count: int) -> int:
        """Wait as `pace` says; the time-out waits too."""
        if self.pace is None or self.timer is None:
            return count
        end, began = self.timer.when(), asyncio.get_running_loop().time()
        allowed = await self.pace(count)
        if end is not None and not self.timer.expired():
            self.timer.reschedule(end + asyncio.get_running_loop().time() - began)
        return allowed


@payload_type(PartData, order=Order.try_first)
class PartPayload(Payload):
    """How the HTTP client sends it."""

    def __init__(
        self,
        value: PartData,
        *,
        disposition: str | None = None,  # noqa: ARG002  # the client's way of making payloads
    ) -> None:
        super().__init__(value)
        self._data = value
        self._size = value.getbuffer().nbytes - value.tell()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not asked for: it is sent, and never shown."""
        raise NotImplementedError

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send what is left of it, a slice at a time: what the socket does not take at once is copied."""
        data = self._data
        async for some in paced(data.getbuffer()[data.tell() :], data.wait if data.pace else None):
            for start in range(0, len(some), SLICE_BYTES):
                await writer.write(some[start : start + SLICE_BYTES])

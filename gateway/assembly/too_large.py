"""From settings to what is done about details that are too large: the ladder, and how details are reduced."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from config.destinations import Destination, DetailSent, HttpDestination, S3Destination, WayOn
from config.too_large import REDUCTIONS
from gateway.calllog.errors import CallLogError
from gateway.calllog.reduce import Critical, Policy, TopN, reduce_detail
from spool.records import Buffer
from uploaders.ladder import Step, reduced, to_bucket, upload
from uploaders.reduction import NotReducible, Reduction


def ladder(destination: Destination, destinations: Iterable[Destination]) -> tuple[Step, ...]:
    """How what this destination refuses as too large goes on; `destinations` are all of them."""
    if not isinstance(destination, HttpDestination):
        return ()
    steps: list[Step] = []
    for way in destination.when_too_large:
        if way is WayOn.PRESIGNED:
            steps.append(upload(destination.name, referenced=destination.presigned.reference))
        elif way is WayOn.S3:
            steps += [to_bucket(destination.name, bucket) for bucket in _buckets_of(destination.name, destinations)]
        else:
            steps.append(reduced(destination.name))
    return tuple(steps)


def takes_uploads(destination: HttpDestination) -> bool:
    """Whether wholes of the detail lane go through upload addresses because they were refused otherwise."""
    return WayOn.PRESIGNED in destination.when_too_large


def reduction(destination: HttpDestination, directory: Path) -> Reduction | None:
    """How its details are reduced, always or where full ones are refused; None where never."""
    asked = {way.value for way in REDUCTIONS.intersection(destination.when_too_large)} | {destination.detail.value}
    policy: Policy
    if DetailSent.CRITICAL.value in asked:
        policy = Critical()
    elif DetailSent.TOP_N.value in asked:
        policy = TopN(destination.top_n)
    else:
        return None

    def reduce(detail: Buffer) -> Sequence[Buffer]:
        """The detail by this policy; its errors become the uploader's own."""
        try:
            return reduce_detail(detail, policy)
        except CallLogError as error:
            raise NotReducible(f"the detail cannot be reduced: {error.message}") from error

    return Reduction(reduce, directory)


def _buckets_of(name: str, destinations: Iterable[Destination]) -> list[str]:
    """The bucket that notifies this endpoint; the check of the settings lets no second one through."""
    return [each.name for each in destinations if isinstance(each, S3Destination) and each.notify == name]

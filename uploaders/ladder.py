"""The ladder for what an endpoint refuses as too large: a pure decision about where such a delivery goes on.

    detail, or whole ──too large──▶ step 1 ──too large──▶ step 2 ── ... ──▶ a dead letter

What was refused is never counted as delivered: either the step takes its place, or it stays as a dead letter.
"""

from dataclasses import dataclass

from spool.records import Bury, Delivery, Divert, Form, Fragment, Lane, NewDelivery

_LARGE = frozenset({Form.WHOLE, Form.DETAIL, Form.REDUCED})
"""A core or a notice has nothing that could go elsewhere."""


@dataclass(frozen=True, slots=True)
class Step:
    """One way on."""

    to: tuple[NewDelivery, ...]
    """What is owed from now on; the first of them carries the content."""
    keep: bool
    """Whether the refused delivery stays as a dead letter, because what goes on is less than it."""
    of_details: bool
    """Whether it is made of a record's detail, which a record in one piece has not."""


def upload(destination: str, *, referenced: bool = False) -> Step:
    """The whole, through an upload address that the same destination gives; `referenced`: and a notice of it."""
    whole = NewDelivery(destination, Form.WHOLE, Lane.DETAIL)
    notice = NewDelivery(destination, Form.NOTICE, Lane.CORE, after=destination)
    return Step((whole, notice) if referenced else (whole,), keep=False, of_details=False)


def to_bucket(destination: str, bucket: str) -> Step:
    """The detail as an object in a bucket, and a notice of it."""
    in_bucket = NewDelivery(bucket, Form.DETAIL, Lane.DETAIL, ordered=False)
    notice = NewDelivery(destination, Form.NOTICE, Lane.CORE, after=bucket)
    return Step((in_bucket, notice), keep=False, of_details=True)


def reduced(destination: str) -> Step:
    """A detail with fewer spans."""
    return Step((NewDelivery(destination, Form.REDUCED, Lane.DETAIL),), keep=True, of_details=True)


def next_step(ladder: tuple[Step, ...], delivery: Delivery) -> Step | None:
    """The first step behind the one that this delivery stands on; None when there is none that suits it."""
    if delivery.form not in _LARGE:
        return None
    has_detail = Fragment.REST in delivery.record.fragments
    standing = next((at for at, step in enumerate(ladder) if _stands_on(step, delivery)), -1)
    return next((step for step in ladder[standing + 1 :] if has_detail or not step.of_details), None)


def settle_too_large(ladder: tuple[Step, ...], delivery: Delivery, reason: str) -> Divert | Bury:
    """What the spool is to write after a delivery was refused as too large for `reason`."""
    step = next_step(ladder, delivery)
    return Bury(reason) if step is None else Divert(reason, step.to, step.keep)


def _stands_on(step: Step, delivery: Delivery) -> bool:
    content = step.to[0]
    return (content.destination, content.form, content.lane) == (delivery.destination, delivery.form, delivery.lane)

"""The oracle of a check: what it says of what was acknowledged and what arrived."""

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest
import zstandard

from gateway.chaos.oracle import Arrival, Notes, Part, Post, judge, make_post
from gateway.chaos.traffic import arrival_of, decoded

SMALL, LARGE = make_post(1, "call", "call_started", None), make_post(2, "call", "call_ended", 60_000)
DETAIL_HEAD = {"call_id": "call", "update_type": "detailed_telemetry"}


def document(post: Post) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(post.body)
    return read


def whole(post: Post, record: str) -> Arrival:
    return arrival_of(document(post), f"{record}-whole")


def core(post: Post, record: str) -> Arrival:
    sent = {key: value for key, value in document(post).items() if key != "telemetry_data"}
    return arrival_of(sent | {"summary_metrics": {}}, f"{record}-core")


def detail(post: Post, record: str) -> Arrival:
    return arrival_of(DETAIL_HEAD | {"telemetry_data": document(post)["telemetry_data"]}, f"{record}-detail")


def altered(arrival: Arrival) -> Arrival:
    return Arrival(arrival.key, arrival.part, arrival.call_id, arrival.number, "something else")


GOOD = (whole(SMALL, "s-1"), core(LARGE, "s-2"), detail(LARGE, "s-2"))


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        (GOOD, {"delivered": 2}),
        ((*GOOD, GOOD[0]), {"delivered": 2, "duplicated": 1}),
        (GOOD[1:], {"delivered": 1, "lost": ("call",)}),
        (GOOD[:2], {"delivered": 1, "lost": ("call",)}),
        ((altered(GOOD[0]), *GOOD[1:]), {"delivered": 2, "altered": ("call",)}),
        ((*GOOD[:2], altered(GOOD[2])), {"delivered": 2, "altered": ("call",)}),
        ((GOOD[1], GOOD[0], GOOD[2]), {"delivered": 2, "out_of_order": ("call",)}),
        ((GOOD[0], GOOD[2], GOOD[1]), {"delivered": 2, "out_of_order": ("call",)}),
        ((*GOOD, GOOD[0], GOOD[1]), {"delivered": 2, "duplicated": 2}),
        ((whole(SMALL, "s-1"), whole(LARGE, "s-2")), {"delivered": 2}),
    ],
    ids=[
        "clean",
        "twice",
        "lost",
        "no detail",
        "altered",
        "altered detail",
        "overtaken",
        "detail first",
        "again",
        "whole",
    ],
)
def test_what_the_oracle_says(arrivals: tuple[Arrival, ...], expected: Mapping[str, object]) -> None:
    """Each way to break a promise is told as what it is, and what is no fault is none."""
    notes = Notes({1: SMALL, 2: LARGE}, {1, 2}, arrivals=list(arrivals))
    verdict = judge(notes)
    usual = {"delivered": 0, "duplicated": 0, "lost": (), "altered": (), "out_of_order": (), "unacknowledged": 0}
    assert {name: getattr(verdict, name) for name in usual} == {**usual, **expected}
    assert verdict.clean == expected.keys().isdisjoint({"lost", "altered", "out_of_order"})


def test_what_was_never_acknowledged_may_arrive() -> None:
    """An agent that did not hear of the acknowledgement has lost nothing."""
    verdict = judge(Notes({1: SMALL}, set(), arrivals=[whole(SMALL, "s-1")]))
    assert (verdict.unacknowledged, verdict.acknowledged, verdict.clean) == (1, 0, True)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (LARGE.body, {}),
        (gzip.compress(LARGE.body), {"Content-Encoding": "gzip"}),
        (zstandard.compress(LARGE.body), {"Content-Encoding": "zstd"}),
        (json.dumps({"compressed": True, "data": b64encode(gzip.compress(LARGE.body)).decode()}).encode(), {}),
    ],
    ids=["plain", "gzip", "zstd", "envelope"],
)
def test_every_encoding_is_understood(body: bytes, headers: Mapping[str, str]) -> None:
    """Whatever encoding the operator chose, the check's endpoint reads it."""
    assert arrival_of(decoded(body, headers), "s-2-whole").content == whole(LARGE, "s-2").content


def test_parts_are_told_apart() -> None:
    """A core, a detail and a whole of the same call log are recognised."""
    assert [one.part for one in GOOD] == [Part.WHOLE, Part.CORE, Part.DETAIL]

"""Joins fragments as a delivery does, and looks at the result with the standard library's own JSON reader."""

import json
from collections.abc import Iterable

from gateway.calllog.document import Document
from gateway.calllog.split import SplitCallLog
from gateway.calllog.toplevel import Piece, buffers

Pairs = list[tuple[str, object]]


def joined(text: bytes | memoryview, pieces: Iterable[Piece]) -> bytes:
    return b"".join(buffers(text, pieces))


def body(call_log: Document) -> bytes:
    return b"".join(call_log.pieces)


def core(split: SplitCallLog) -> bytes:
    return _object(joined(split.text, split.base), split.derived)


def whole(split: SplitCallLog) -> bytes:
    return _object(joined(split.text, split.base), joined(split.text, split.rest))


def detail(split: SplitCallLog, call_id: str) -> bytes:
    head = json.dumps({"call_id": call_id, "update_type": "detailed_telemetry"})[1:-1].encode()
    return _object(head, joined(split.text, split.rest))


def top_level(document: bytes) -> Pairs:
    """The top-level members in order, duplicates included; raises when a number is not JSON's."""
    found: list[Pairs] = []

    def note(pairs: Pairs) -> dict[str, object]:
        found.append(pairs)
        return dict(pairs)

    def refuse(literal: str) -> object:
        raise ValueError(f"{literal} is no JSON")

    json.loads(document, object_pairs_hook=note, parse_constant=refuse)
    return found[-1]


def _object(*runs: bytes) -> bytes:
    return b"{" + b",".join(run for run in runs if run) + b"}"

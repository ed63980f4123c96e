"""The call log that is made of a webhook: what its event says, and the original, unchanged."""

import base64
import hashlib
import json
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from gateway.calllog.toplevel import BYTE_ORDER_MARK
from gateway.webhooks.adapters import OTHER, Event
from spool.records import Buffer

_BUILT_WHOLE_BYTES: Final = 1 << 20
"""Of a larger body, large values are left out: they would take ten times their size."""
_VALUE_BYTES: Final = 64 << 10
_LIST_BYTES: Final = 4 << 20
"""The largest transcript that is built of a large body."""
_DEEPEST: Final = 4

_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def without_mark(body: Buffer) -> Buffer:
    """The body without its byte order mark, which some libraries write and JSON has none of."""
    view = memoryview(body)
    return view[len(BYTE_ORDER_MARK) :] if view[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK else body


def decode(body: Buffer, *, is_form: bool) -> tuple[object, bool]:
    """The body as plain values, None where it is not what the provider sends; and whether it is JSON in UTF-8."""
    if is_form:
        return dict(parse_qsl(bytes(body).decode("utf-8", "replace"), keep_blank_values=True)), False
    try:
        return (msgspec.json.decode(body) if len(body) <= _BUILT_WHOLE_BYTES else _small_values(body, 0)), True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the second for the name of a member
        if len(body) > _BUILT_WHOLE_BYTES:
            return None, False
    try:  # lone surrogates, NaN, Infinity
        return json.loads(bytes(body).decode("utf-8")), True
    except (ValueError, RecursionError):
        return None, False


def _small_values(raw: Buffer | msgspec.Raw, depth: int) -> object:
    """A value without the large ones in it. Raises `msgspec.DecodeError`."""
    view = memoryview(raw)
    first = bytes(view[:1])
    if len(view) <= _VALUE_BYTES or (first == b"[" and len(view) <= _LIST_BYTES):
        return msgspec.json.decode(raw)
    if first == b"{" and depth < _DEEPEST:
        return {name: _small_values(value, depth + 1) for name, value in _members_of(raw).items()}
    return None


def call_log_of(source: str, provider: str, event: Event, body: Buffer, *, is_json: bool) -> tuple[Buffer, ...]:
    """The pieces of the call log that is made of an event. The original is one of them, unchanged.

    The same for the same body, so that a call log that is sent again has the same digest.
    """
    head = {
        "call_id": event.call_id or unknown_call(body),
        "wcall_event": event.event if event.call_id else OTHER,
        **event.members,
        "source": {"name": source, "provider": provider, "type": event.type},
    }
    written = json.dumps(head, separators=(",", ":"))[:-1]
    if is_json:
        return f'{written},"original":'.encode(), body, b"}"
    try:
        name, original = "original_text", bytes(body).decode()
    except UnicodeDecodeError:
        name, original = "original_base64", base64.b64encode(body).decode()
    return (f"{written},{json.dumps(name)}:{json.dumps(original)}}}".encode(),)


def unknown_call(body: Buffer) -> str:
    """The id of what names no call."""
    return f"unknown-{hashlib.sha256(body).hexdigest()[:32]}"

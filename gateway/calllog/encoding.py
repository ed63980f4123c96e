"""Checks that a body is UTF-8: the JSON decoder does not look inside the strings that it skips."""

import codecs

from gateway.calllog.errors import CallLogError, Fault

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STEP = 1 << 20
"""How much is looked at at once: a decoded copy of this size is thrown away at each step."""


def check_utf8(text: bytes | memoryview, *, offset: int = 0) -> None:
    """Return if `text` is valid UTF-8; `offset` is where it begins in the posted body.

    Raises `CallLogError` (not_utf8) with the position of the first byte that is not.
    """
    if isinstance(text, bytes) and text.isascii():
        return
    position = 0
    while position < len(text):
        step = bytes(text[position : position + _STEP])
        if step.isascii():
            position += len(step)
            continue
        last = position + len(step) == len(text)
        try:
            position += codecs.utf_8_decode(step, "strict", last)[1]
        except UnicodeDecodeError as error:
            raise _not_utf8(offset + position + error.start) from None


def _not_utf8(position: int) -> CallLogError:
    return CallLogError(
        Fault.NOT_UTF8,
        f"The body is not valid UTF-8: byte {position} (counted from 0) does not belong there.",
        "Send JSON encoded as UTF-8; a compressed body needs its Content-Encoding header.",
        position,
    )

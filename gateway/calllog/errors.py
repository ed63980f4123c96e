"""The one error of this package: a posted body that is no call log, with what its sender needs to mend it."""

from enum import StrEnum


class Fault(StrEnum):
    """What is wrong with a body. The values are the `code` of the answer to the sender."""

    NOT_JSON = "not_json"
    """The body is empty or its JSON syntax is broken."""
    NOT_UTF8 = "not_utf8"
    """The body holds a byte that is not valid UTF-8."""
    NOT_AN_OBJECT = "not_an_object"
    """The body is JSON, but not an object."""
    TOO_DEEP = "too_deep"
    """Arrays and objects are nested deeper than any endpoint could read."""
    BAD_ENVELOPE = "bad_envelope"
    """The body says that it is compressed, and what it carries cannot be decoded."""
    NO_CALL_ID = "no_call_id"
    """The call log has no call_id, or an empty one."""
    BAD_CALL_ID = "bad_call_id"
    """The call_id is of a type, length or text that cannot name a call."""


class CallLogError(Exception):
    """A posted body cannot be taken as a call log.

    `code` is one of `Fault`; `position` the offset in the posted body, in bytes from 0, where that is known.
    Neither `message` nor `hint` quotes the body, which may hold personal data and secrets.
    """

    def __init__(self, code: Fault, message: str, hint: str, position: int | None = None) -> None:
        super().__init__(message)
        self.code: str = code
        self.message = message
        self.hint = hint
        self.position = position

    @property
    def unprocessable(self) -> bool:
        """Whether the body is sound JSON that lacks a usable call_id (422), not a broken one (400)."""
        return self.code in {Fault.NO_CALL_ID, Fault.BAD_CALL_ID}

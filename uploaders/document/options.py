"""The choices of how documents go to an endpoint. Pure: the configuration reads these words, too."""

from enum import StrEnum


class Encoding(StrEnum):
    """How a request carries its document."""

    AUTO = "auto"
    """Plain JSON up to 10 KB, the envelope above: what every Whispey endpoint accepts."""
    IDENTITY = "identity"
    """Plain JSON."""
    GZIP = "gzip"
    """`Content-Encoding: gzip`."""
    ZSTD = "zstd"
    """`Content-Encoding: zstd`: the stored frames as they are."""
    ENVELOPE = "envelope"
    """JSON around the base64 of the gzip, as the SDK sends it above 10 KB."""


class Large(StrEnum):
    """How a large call log goes to an endpoint."""

    TWO_PHASE = "two_phase"
    """The core at once, the detail after it."""
    WHOLE = "whole"
    """In one request."""
    PRESIGNED = "presigned"
    """In one piece, through an upload address that the endpoint gives."""

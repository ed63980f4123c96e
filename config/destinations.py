"""The settings of destinations: one model for each type, told apart by `type`.

A further type is a model derived from `DestinationTable`, a member of the `Destination` union, and, if variables
alone can add one, a row in `config.shortcuts`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.destination_table import DestinationTable, LaneConcurrency, RetrySettings
from config.s3_destination import S3Destination
from config.too_large import REDUCTIONS, DetailSent, WayOn, WaysOn
from config.units import MB, MINUTE
from config.values import Choice, Directory, Duration, Endpoint, Shown, Size, Table, format_path

SEND_PATH = "/send-call-log"
"""What the SDK replaces in a URL to ask for an upload address."""


class TokenMode(StrEnum):
    """Which token a destination gets."""

    FORWARD = "forward"
    """The one that the agent sent."""
    REPLACE = "replace"
    """The destination's own."""


class Encoding(StrEnum):
    """How a request body goes to an endpoint."""

    AUTO = "auto"
    """Plain JSON up to 10 KB, the envelope above: what every endpoint takes."""
    IDENTITY = "identity"
    """Plain JSON."""
    GZIP = "gzip"
    """Content-Encoding: gzip."""
    ZSTD = "zstd"
    """Content-Encoding: zstd."""
    ENVELOPE = "envelope"
    """JSON that carries the base64 of a gzip, as the SDK sends it above 10 KB."""


class Large(StrEnum):
    """How a large call log goes to an endpoint."""

    TWO_PHASE = "two_phase"
    """The core at once, the detail after it."""
    WHOLE = "whole"
    """In one request."""
    PRESIGNED = "presigned"
    """In one piece, to an upload address that the endpoint gives."""


class PresignedSettings(Table):
    """How large call logs go through upload addresses."""

    address_url: Endpoint | None = Field(default=None, repr=False)
    """Where to ask for an upload address; by default `url` with `/get-upload-url` in place of `/send-call-log`."""
    reference: bool = False
    """Whether the endpoint is told of each upload; by default not, since the object's arrival starts its processing."""
    timeout: Duration = 15 * MINUTE
    """For one upload in all."""


def _default_token_mode(
    checked: dict[str, Any],
) -> TokenMode:  # Any: pydantic's own type here
    return TokenMode.REPLACE if checked.get("token") else TokenMode.FORWARD


def _default_ways_on(checked: dict[str, Any]) -> tuple[WayOn, ...]:  # Any: pydantic's own type here
    """Who says where upload addresses are asked for, has them."""
    presigned = checked.get("presigned")
    in_two_phases = checked.get("large") is Large.TWO_PHASE and checked.get("detail") is not DetailSent.NONE
    return (WayOn.PRESIGNED,) if in_two_phases and presigned and presigned.address_url else ()


def _has_no_address_url(presigned: PresignedSettings, checked: dict[str, Any]) -> bool:  # Any: pydantic's own type
    """Whether it is neither given nor can be made of the URL."""
    return presigned.address_url is None and "url" in checked and SEND_PATH not in urlsplit(checked["url"]).path


class HttpDestination(DestinationTable):
    """An HTTP endpoint that takes call logs."""

    type: Literal["http"]
    """`http`: an endpoint that takes call logs as JSON."""
    url: Endpoint = Field(repr=False)
    """Where call logs are posted, with its path, such as `https://host/dev/send-call-log`."""
    token: SecretStr | None = None
    """Sent as `x-pype-token` in place of the agent's own."""
    token_mode: Annotated[TokenMode, Choice] = Field(default_factory=_default_token_mode)
    """`forward` the agent's token or `replace` it; by default `replace` where `token` is set."""
    encoding: Annotated[Encoding, Choice] = Encoding.AUTO
    """`auto` (plain up to 10 KB, the envelope above), `identity`, `gzip`, `zstd` or `envelope`."""
    large: Annotated[Large, Choice] = Large.TWO_PHASE
    """How large call logs go: `two_phase`, `whole` or `presigned`."""
    max_request_bytes: Size = 6 * MB
    """The largest request body that the endpoint takes."""
    detail: Annotated[DetailSent, Choice] = DetailSent.FULL
    """What it gets of details: `full`, `critical` (slow spans, failed ones, tool calls), `top_n` (the slowest spans)
    or `none`."""
    top_n: Annotated[int, Field(ge=1)] = 100
    """For `top_n`: how many of the slowest spans stay."""
    concurrency: LaneConcurrency = Field(default_factory=LaneConcurrency)
    """Requests under way at once, for each lane."""
    connect_timeout: Duration = 10.0
    """For establishing a connection, TLS included."""
    total_timeout: Duration = MINUTE
    """For one request in all."""
    ca_file: Annotated[FilePath | None, Shown(format_path)] = None
    """A PEM file of certificate authorities to trust besides the system's."""
    presigned: PresignedSettings = Field(default_factory=PresignedSettings)
    """How large call logs go through upload addresses."""
    when_too_large: WaysOn = Field(default_factory=_default_ways_on)
    """Where a refused detail goes: `presigned`, then `s3` or reduced to `critical` or `top_n`, then a dead letter.
    By default `presigned` if `presigned.address_url` is set."""

    @field_validator("token")
    @classmethod
    def _token_fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        return checked_token(token)

    @field_validator("token_mode")
    @classmethod
    def _replace_needs_a_token(cls, mode: TokenMode, info: ValidationInfo) -> TokenMode:
        if mode is TokenMode.REPLACE and "token" in info.data and info.data["token"] is None:
            raise ValueError("needs `token` to be set")
        return mode

    @field_validator("presigned")
    @classmethod
    def _addresses_can_be_asked_for(cls, presigned: PresignedSettings, info: ValidationInfo) -> PresignedSettings:
        if info.data.get("large") is Large.PRESIGNED and _has_no_address_url(presigned, info.data):
            advice = f"should be given: it cannot be made of a `url` without {SEND_PATH}"
            raise PydanticCustomError("conflict", "{advice}", {"field": "address_url", "advice": advice})
        return presigned

    @field_validator("detail")
    @classmethod
    def _only_two_phases_have_details(cls, detail: DetailSent, info: ValidationInfo) -> DetailSent:
        if detail is not DetailSent.FULL and info.data.get("large", Large.TWO_PHASE) is not Large.TWO_PHASE:
            raise ValueError('needs `large = "two_phase"`')
        return detail

    @field_validator("when_too_large")
    @classmethod
    def _ways_can_be_gone(cls, ways: tuple[WayOn, ...], info: ValidationInfo) -> tuple[WayOn, ...]:
        checked = info.data
        if ways and checked.get("large", Large.TWO_PHASE) is not Large.TWO_PHASE:
            raise ValueError('needs `large = "two_phase"`')
        if REDUCTIONS.intersection(ways) and checked.get("detail", DetailSent.FULL) is not DetailSent.FULL:
            raise ValueError('needs `detail = "full"` to reduce what is refused')
        if WayOn.S3 in ways and checked.get("detail") is DetailSent.NONE:
            raise ValueError('needs details to be sent: with `detail = "none"` there are none that could go on')
        if WayOn.PRESIGNED in ways and "presigned" in checked and _has_no_address_url(checked["presigned"], checked):
            raise ValueError(f"needs `presigned.address_url`: it cannot be made of a `url` without {SEND_PATH}")
        return ways


class FileDestination(DestinationTable):
    """A directory that delivered call logs are written into."""

    type: Literal["file"]
    """`file`: a directory on this machine."""
    path: Directory
    """The directory; a sub-directory is made for each day."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=2, detail=1))
    """Files written at once, for each lane."""


Destination = Annotated[HttpDestination | S3Destination | FileDestination, Field(discriminator="type")]
"""Any configured destination."""

DESTINATION_TYPES: tuple[type[DestinationTable], ...] = (HttpDestination, S3Destination, FileDestination)
"""The members of `Destination`, in the order of their documentation."""


def type_name(model: type[DestinationTable]) -> str:
    """The word that selects this model: the only value of its `type`."""
    (word,) = model.model_fields["type"].annotation.__args__  # type: ignore[union-attr]  # a Literal has it
    return str(word)


def checked_token(token: SecretStr | None) -> SecretStr | None:
    """A token that can stand in an HTTP header. Raises ValueError, without the token, for any other."""
    if token is None:
        return None
    text = token.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("should be one or more visible ASCII characters, without blanks around them")
    return token


__all__ = [
    "DESTINATION_TYPES",
    "Destination",
    "DestinationTable",
    "DetailSent",
    "Encoding",
    "FileDestination",
    "HttpDestination",
    "LaneConcurrency",
    "Large",
    "PresignedSettings",
    "RetrySettings",
    "S3Destination",
    "TokenMode",
    "WayOn",
    "checked_token",
    "type_name",
]

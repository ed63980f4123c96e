"""What every destination has that is an HTTP endpoint of the agents' own kind: its URL, its token, its time-outs."""

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, FilePath, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.destination_table import DestinationTable
from config.units import MINUTE
from config.values import Choice, Duration, Endpoint, Shown, Table, format_path

SEND_PATH = "/send-call-log"
"""What the SDK replaces in a URL to ask for an upload address."""


class TokenMode(StrEnum):
    """Which token a destination gets."""

    FORWARD = "forward"
    """The one that the agent sent."""
    REPLACE = "replace"
    """The destination's own."""


class PresignedSettings(Table):
    """How call logs go through upload addresses."""

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


class EndpointTable(DestinationTable):
    """What every endpoint has."""

    url: Endpoint = Field(repr=False)
    """Where call logs are posted, with its path, such as `https://host/dev/send-call-log`."""
    token: SecretStr | None = None
    """Sent as `x-pype-token` in place of the agent's own."""
    token_mode: Annotated[TokenMode, Choice] = Field(default_factory=_default_token_mode)
    """`forward` the agent's token or `replace` it; by default `replace` where `token` is set."""
    connect_timeout: Duration = 10.0
    """For establishing a connection, TLS included."""
    send_timeout: Duration = 20.0
    """So long the endpoint may take no more of a request that is being sent."""
    first_byte_timeout: Duration = 45.0
    """From the end of a request to the status and headers of its answer."""
    total_timeout: Duration = 2 * MINUTE
    """For one request in all, but for the time that a bandwidth limit makes it wait."""
    ca_file: Annotated[FilePath | None, Shown(format_path)] = None
    """A PEM file of certificate authorities to trust besides the system's."""

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


def has_no_address_url(presigned: PresignedSettings, checked: dict[str, Any]) -> bool:  # Any: pydantic's own type
    """Whether the place to ask for addresses is neither given nor can be made of the `url` among `checked`."""
    return presigned.address_url is None and "url" in checked and SEND_PATH not in urlsplit(checked["url"]).path


def require_address_url(presigned: PresignedSettings, checked: dict[str, Any]) -> None:  # Any: pydantic's own type
    """Raises pydantic's error, which names the field to set, where there is no place to ask for addresses."""
    if has_no_address_url(presigned, checked):
        advice = f"should be given: it cannot be made of a `url` without {SEND_PATH}"
        raise PydanticCustomError("conflict", "{advice}", {"field": "address_url", "advice": advice})


def checked_token(token: SecretStr | None) -> SecretStr | None:
    """A token that can stand in an HTTP header. Raises ValueError, without the token, for any other."""
    if token is None:
        return None
    text = token.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("should be one or more visible ASCII characters, without blanks around them")
    return token

"""The settings of destinations: one model for each type, told apart by `type`.

A further type is a model derived from `DestinationTable`, a member of the `Destination` union, and, if variables
alone can add one, a row in `config.shortcuts`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, FilePath, SecretStr, ValidationInfo, field_validator

from config.units import DAY, MB, MINUTE, format_duration
from config.values import Choice, Directory, Duration, Endpoint, Shown, Size, Table, format_path


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


class RetrySettings(Table):
    """When a failed delivery is tried again, and for how long."""

    initial: Duration = 1.0
    """The wait after the first failure; it doubles with each further one."""
    max: Duration = 5 * MINUTE
    """The longest wait between two attempts."""
    give_up_after: Duration = DAY
    """So long after its first failure a delivery becomes a dead letter."""

    @field_validator("max")
    @classmethod
    def _max_holds_initial(cls, longest: float, info: ValidationInfo) -> float:
        if longest < info.data.get("initial", 0):
            raise ValueError(f"should be at least `initial` ({format_duration(info.data['initial'])})")
        return longest


class LaneConcurrency(Table):
    """How many deliveries of each lane are under way at once; a lane never waits for the other's slots."""

    core: Annotated[int, Field(ge=1, le=1000)] = 8
    """Wholes, cores and notices under way at once."""
    detail: Annotated[int, Field(ge=1, le=1000)] = 2
    """Details under way at once."""


class DestinationTable(Table):
    """What every destination has."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    """Names the destination in metrics and in the spool: a to z, 0 to 9 and `-`, at most 32; keep it for good."""
    type: str
    """Selects the model; each one narrows it to its own word."""
    retry: RetrySettings = Field(default_factory=RetrySettings)
    """When a failed delivery is tried again."""


def _default_token_mode(
    checked: dict[str, Any],
) -> TokenMode:  # Any: pydantic's own type here
    return TokenMode.REPLACE if checked.get("token") else TokenMode.FORWARD


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
    concurrency: LaneConcurrency = Field(default_factory=LaneConcurrency)
    """Requests under way at once, for each lane."""
    connect_timeout: Duration = 10.0
    """For establishing a connection, TLS included."""
    total_timeout: Duration = MINUTE
    """For one request in all."""
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


class FileDestination(DestinationTable):
    """A directory that delivered call logs are written into."""

    type: Literal["file"]
    """`file`: a directory on this machine."""
    path: Directory
    """The directory; a sub-directory is made for each day."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=2, detail=1))
    """Files written at once, for each lane."""


Destination = Annotated[HttpDestination | FileDestination, Field(discriminator="type")]
"""Any configured destination."""

DESTINATION_TYPES: tuple[type[DestinationTable], ...] = (HttpDestination, FileDestination)
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
    "Encoding",
    "FileDestination",
    "HttpDestination",
    "LaneConcurrency",
    "Large",
    "RetrySettings",
    "TokenMode",
    "checked_token",
    "type_name",
]

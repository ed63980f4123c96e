"""What every destination has: a name, a type, patience, and places in each lane."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, Field, FilePath, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.layers import Layer, Problem, first_origin, readable
from config.types import (
    Choice,
    Duration,
    Endpoint,
    HeaderToken,
    OptionalSize,
    Shown,
    Table,
    format_path,
)
from config.values import DAY, MINUTE, crosses_network_in_clear, format_duration, mask_address, names_secret
from uploaders.http.options import parse_rule
from uploaders.upload_hosts import UploadHosts, is_host_or_network


class RetrySettings(Table):
    """When a failed delivery is tried again, and for how long."""

    initial: Duration = 1.0
    """The wait after the first failure; it doubles with each further one."""
    max: Duration = 5 * MINUTE
    """The longest wait between two attempts."""
    give_up_after: Duration = DAY
    """How long a delivery is retried before it becomes a dead letter; one attempt counts for at most `max`."""

    @field_validator("max")
    @classmethod
    def _max_holds_initial(cls, longest: float, info: ValidationInfo) -> float:
        if longest < info.data.get("initial", 0):
            raise ValueError(f"should be at least `initial` ({format_duration(info.data['initial'])})")
        return longest


class LaneConcurrency(Table):
    """How many deliveries of each lane are under way at once; a lane never waits for the other's slots."""

    core: Annotated[int, Field(ge=1, le=1000)] = 8
    """Wholes, cores and notices in flight at once."""
    detail: Annotated[int, Field(ge=1, le=1000)] = 2
    """Details in flight at once."""


def _events(value: object) -> tuple[str, ...] | None:
    """Names of events from a list, or from a text with commas; None for all."""
    given = value.split(",") if isinstance(value, str) else value
    if given is None or given == ["all"]:
        return None
    names = tuple(str(each).strip() for each in given) if isinstance(given, list | tuple) else ()
    if not names or not all(name.isprintable() and 0 < len(name) <= 64 for name in names):
        raise ValueError('should be a list of events, such as ["call_ended", "call_complete"]')
    return names


Events = Annotated[tuple[str, ...] | None, BeforeValidator(_events), Shown(",".join)]
"""Which events; None: all."""


class DestinationTable(Table):
    """What every destination has."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    """Its name in metrics and in the spool: at most 32 of a to z, 0 to 9 and `-`. Never change it."""
    type: str
    """Selects the model; each one narrows it to its own word."""
    max_bytes_per_second: OptionalSize = None
    """The bandwidth limit of details to it, in bytes per second; cores count, but never wait."""
    events: Events = None
    """The events it receives, such as `call_ended`; by default all that are posted. A receiver creates `call_complete`
    once start and end of a call are in its store."""
    standby: bool = False
    """Whether it receives only what `deliveries reroute` or `shutdown.evacuate_to` moves to it."""
    retry: RetrySettings = Field(default_factory=RetrySettings)
    """When a failed delivery is tried again."""

    @property
    def replaces_token(self) -> bool:
        """Whether all requests carry the destination's own token instead of the agents'."""
        return False

    @property
    @abstractmethod
    def target(self) -> str:
        """Where it delivers to, for people: without secrets."""

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:  # noqa: ARG002  # for some kinds
        """One sentence for each thing that is allowed but should be looked at; cores have at most `core_max_bytes`."""
        yield from ()


# What every destination has that is an HTTP endpoint of the agents' own kind: its URL, its token, its time-outs.

SEND_PATH = "/send-call-log"
"""The part of a URL that the SDK replaces to request an upload address."""


class TokenMode(StrEnum):
    """Which token a destination gets."""

    FORWARD = "forward"
    """The one that the agent sent."""
    REPLACE = "replace"
    """The destination's own."""


def _upload_hosts(value: object) -> tuple[str, ...]:
    """Host names and networks from a list, or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    hosts = tuple(str(each).strip() for each in given) if isinstance(given, list | tuple) else ("",)
    if not all(map(is_host_or_network, hosts)):
        raise ValueError("should be a list of host names, `*.names`, addresses or networks, without ports")
    return hosts


UploadHostList = Annotated[
    tuple[str, ...], BeforeValidator(_upload_hosts), Shown(lambda hosts: ",".join(hosts) or "none")
]


class PresignedSettings(Table):
    """How call logs go through upload addresses."""

    address_url: Endpoint | None = Field(default=None, repr=False)
    """The URL for upload addresses; by default `url` with `/get-upload-url` in place of `/send-call-log`."""
    reference: bool = False
    """Whether the endpoint is notified of each upload; by default not, since the object's arrival starts processing."""
    upload_hosts: UploadHostList = ()
    """Hosts, `*.names` and networks that may be uploaded to, besides the endpoint's site and known object stores."""
    timeout: Duration = 15 * MINUTE
    """Time for a whole upload."""


def _default_token_mode(
    checked: dict[str, Any],
) -> TokenMode:  # Any: pydantic's own type here
    return TokenMode.REPLACE if checked.get("token") else TokenMode.FORWARD


def _read_rules(value: object) -> object:
    """Rules from a list, or from one text. Raises ValueError for one that cannot be read."""
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError('should be a list of rules, such as ["/ok == true", "!/errors"]')
    return tuple(parse_rule(str(each)).text for each in given)


def _format_rules(rules: tuple[str, ...]) -> str:
    return ", ".join(rules) or "none"


Rules = Annotated[tuple[str, ...], BeforeValidator(_read_rules), Shown(_format_rules)]
"""What confirms a delivery."""


class EndpointTable(DestinationTable):
    """What every endpoint has."""

    url: Endpoint = Field(repr=False)
    """Where call logs are posted, with its path, such as `https://host/dev/send-call-log`."""
    token: HeaderToken | None = None
    """Sent as `x-pype-token` instead of the agent's own token."""
    token_mode: Annotated[TokenMode, Choice] = Field(default_factory=_default_token_mode)
    """`forward` the agent's token or `replace` it; by default `replace` if `token` is set."""
    connect_timeout: Duration = 10.0
    """Time to establish a connection, TLS included."""
    send_timeout: Duration = 20.0
    """How long the endpoint may stop reading a request."""
    first_byte_timeout: Duration = 45.0
    """Time from the end of a request to the status and headers of the response."""
    total_timeout: Duration = 2 * MINUTE
    """Time for a whole request, without waits for a bandwidth limit."""
    delivered_when: Rules = ()
    """What the body of a 2xx must say to confirm a delivery: JSON pointers such as `"/ok == true"` or `"!/errors"`, all
    of which must hold. By default it must not report a failure."""
    ca_file: Annotated[FilePath | None, Shown(format_path)] = None
    """A PEM file of certificate authorities to trust besides the system's."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        return mask_address(self.url)

    @property
    def replaces_token(self) -> bool:
        """Whether all requests carry the destination's own token instead of the agents'."""
        return self.token_mode is TokenMode.REPLACE

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:
        """See `DestinationTable`."""
        yield from super().warnings(core_max_bytes=core_max_bytes)
        query = parse_qsl(urlsplit(self.url).query, keep_blank_values=True)
        secret = next((name for name, _ in query if names_secret(name)), None)
        if secret is not None:
            yield (
                f"destinations[{self.name}].url seems to carry a secret in its query ({secret}); "
                "servers write queries into their logs"
            )
        if crosses_network_in_clear(self.url):
            yield (
                f"destinations[{self.name}].url is not https: "
                "tokens and call logs cross the network readable by anyone on the way"
            )

    @field_validator("token_mode")
    @classmethod
    def _replace_needs_a_token(cls, mode: TokenMode, info: ValidationInfo) -> TokenMode:
        if mode is TokenMode.REPLACE and "token" in info.data and info.data["token"] is None:
            raise ValueError("needs `token` to be set")
        return mode


def address_url_warnings(name: str, presigned: PresignedSettings) -> Iterator[str]:
    """The answer of an address that is asked for in clear may name any place to upload to; so may a wide list."""
    if UploadHosts((), presigned.upload_hosts).lists_metadata_service:
        yield (
            f"destinations[{name}].presigned.upload_hosts contains 169.254.169.254, where clouds give out credentials: "
            "the endpoint may have call logs uploaded there"
        )
    if crosses_network_in_clear(presigned.address_url):
        yield (
            f"destinations[{name}].presigned.address_url is not https: tokens cross the network readable "
            "by anyone on the way, who could also say where call logs are uploaded to"
        )


def has_no_address_url(presigned: PresignedSettings, checked: dict[str, Any]) -> bool:  # Any: pydantic's own type
    """Whether `address_url` is neither given nor can be derived from the `url` among `checked`."""
    return presigned.address_url is None and "url" in checked and SEND_PATH not in urlsplit(checked["url"]).path


def require_address_url(presigned: PresignedSettings, checked: dict[str, Any]) -> None:  # Any: pydantic's own type
    """Raises pydantic's error, which names the field to set, if no `address_url` is known."""
    if has_no_address_url(presigned, checked):
        advice = f"is required: it cannot be derived from a `url` without {SEND_PATH}"
        raise PydanticCustomError("conflict", "{advice}", {"field": "address_url", "advice": advice})


# The part of a detail that an endpoint receives, and the fallbacks for a detail that it refuses as too large.


class DetailSent(StrEnum):
    """Which part of a detail an endpoint receives."""

    FULL = "full"
    """All."""
    CRITICAL = "critical"
    """Only slow spans, failed spans and tool calls."""
    TOP_N = "top_n"
    """Only the slowest spans."""
    NONE = "none"
    """Nothing: it gets only the core."""


class Fallback(StrEnum):
    """The fallback of a delivery that an endpoint refuses as too large."""

    PRESIGNED = "presigned"
    """The whole call log, through an upload address of the endpoint."""
    S3 = "s3"
    """The detail, into the bucket that notifies the endpoint."""
    CRITICAL = "critical"
    """Reduced as by `detail = "critical"`; the full detail stays as a dead letter."""
    TOP_N = "top_n"
    """Reduced as by `detail = "top_n"`; the full detail stays as a dead letter."""


REDUCTIONS = frozenset({Fallback.CRITICAL, Fallback.TOP_N})


def read_fallbacks(value: object) -> object:
    """Fallbacks from a list, or from a text with commas. Raises ValueError if they are not possible in this order."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError(f"should be a list of {_known()}")
    words = [str(each).strip().lower() for each in given]
    words = [word for word in words if word not in {"", "none"}]
    if not set(words) <= set(Fallback):
        raise ValueError(f"should be a list of {_known()}")
    if len(words) > 2 or (len(words) == 2 and (words[0] != Fallback.PRESIGNED or words[1] == Fallback.PRESIGNED)):
        raise ValueError('should be one of them, with "presigned" before it if that is to be tried first')
    return tuple(Fallback(word) for word in words)


def format_fallbacks(ways: tuple[Fallback, ...]) -> str:
    """As people write them."""
    return ", ".join(ways) or "none"


Fallbacks = Annotated[tuple[Fallback, ...], BeforeValidator(read_fallbacks), Shown(format_fallbacks)]
"""In order: each is tried if the one before is refused too."""


def bucket_problems(layer: Layer) -> Iterator[Problem]:
    """Endpoints with the fallback `s3` that no bucket notifies."""
    destinations = layer.tree["destinations"]
    notified = {str(item.get("notify")) for item in destinations if isinstance(item, dict) and item.get("type") == "s3"}
    for index, item in enumerate(destinations):
        if isinstance(item, dict) and _wants_a_bucket(item) and str(item.get("name")) not in notified:
            path = ("destinations", index, "when_too_large")
            yield Problem(
                readable(path, (layer,)),
                "needs a destination of type s3 that notifies this one",
                json.dumps(Fallback.S3),
                first_origin((layer,), path),
            )


def _wants_a_bucket(item: Mapping[str, Any]) -> bool:  # Any: what a file may hold
    try:
        ways = read_fallbacks(item.get("when_too_large", ()))
    except ValueError:  # reported by the check of the value itself
        return False
    return isinstance(ways, tuple) and Fallback.S3 in ways


def _known() -> str:
    return ", ".join(Fallback)

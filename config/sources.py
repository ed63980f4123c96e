"""Sources: senders of webhooks, each with its provider and its secrets."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from config.destinations import Destination, S3Destination
from config.destinations.base import UploadHostList
from config.layers import Layer, Problem
from config.listeners import ListenerTable
from config.types import (
    Choice,
    Directory,
    Duration,
    Endpoint,
    HeaderToken,
    OptionalListen,
    Shown,
    Table,
    Words,
    format_tokens,
)
from config.values import split_tokens


class ProviderName(StrEnum):
    """Who sends, and how it signs."""

    BLAND = "bland"
    """HMAC in X-Webhook-Signature."""
    ELEVENLABS = "elevenlabs"
    """HMAC with a time in ElevenLabs-Signature."""
    HEADER = "header"
    """Any sender that sends the secret itself in a header."""
    HMAC = "hmac"
    """Any sender that signs with an HMAC."""
    LIVEKIT = "livekit"
    """A JSON web token with the body's digest."""
    RETELL = "retell"
    """HMAC with a time in X-Retell-Signature."""
    TELNYX = "telnyx"
    """Ed25519; the secret is the account's public key."""
    TWILIO = "twilio"
    """HMAC over the public address and the form."""
    VAPI = "vapi"
    """The secret itself, in X-Vapi-Secret or as a bearer; with `header`, an HMAC."""


def _secrets(value: object) -> object:
    """Secrets from a list, or from a text that holds them."""
    return split_tokens(value) if isinstance(value, str) else value


def _shown_table(table: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in table.items()) or "none"


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_secrets), Shown(format_tokens)]
"""One secret, or a list of them while one replaces another."""
Texts = Annotated[dict[str, str], Shown(_shown_table)]
"""A table of texts."""

_HEADER_NAME = r"^[A-Za-z0-9-]{1,64}$"
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_POINTER = re.compile(r"(/([^/~]|~[01])*)+")
ELEVENLABS_PATH = "/api/webhooks/elevenlabs/call-ended"
"""Where servers of ElevenLabs users often listen: the second path of the source of this name, unless another is set."""
_MAPPED = frozenset({ProviderName.HMAC, ProviderName.HEADER})


MAPPABLE = frozenset(
    {
        "agent_id",
        "billing_duration_seconds",
        "call_ended_at",
        "call_ended_reason",
        "call_id",
        "call_started_at",
        "customer_number",
        "duplicate_key",
        "environment",
        "event",
        "provider_cost",
        "provider_summary",
        "recording_url",
        "transcript_json",
        "type",
    }
)
"""What `fields` may name: members of the call log, the sender's type of event, and its own key of duplicates."""


class RecordingMode(StrEnum):
    """What happens to recordings that a provider's webhooks refer to."""

    REFER = "refer"
    """The call log has the provider's address, which may expire."""
    COPY = "copy"
    """The recording is fetched and kept, and an update of the call says where."""


class SourceSettings(Table):
    """One sender of webhooks."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")]
    """Its name in metrics, and in its path: /webhooks/NAME."""
    provider: Annotated[ProviderName, Choice]
    """The sender: `elevenlabs`, `retell`, `vapi`, `livekit`, `telnyx`, `twilio`, `bland`, or `hmac` or `header`."""
    secrets: Secrets = ()
    """What the provider signs with; several while one replaces another. Without any, webhooks are answered 503."""
    path: str | None = None
    """A path besides /webhooks/NAME, such as the one already configured at the provider."""
    events: Words = ()
    """More types of events to keep, besides the usual ones."""
    tolerance: Duration | None = None
    """How far a signature's time may differ from this machine's; by default 5 minutes (`elevenlabs`: 30)."""
    forward_url: Endpoint | None = None
    """The server that answers the provider's requests, such as Vapi's tool calls; its answer is passed on."""
    token: HeaderToken | None = None
    """The agent's key to send to destinations with call logs of this source."""
    tenant: str | None = None
    """The tenant of its calls; by default that of the agent."""
    recordings: Annotated[RecordingMode, Choice] = RecordingMode.REFER
    """`refer` keeps the provider's URL of a recording; `copy` downloads the recording before that URL expires."""
    api_key: str | None = None
    """LiveKit: the API key, which must be the issuer of each webhook."""
    header: Annotated[str, Field(pattern=_HEADER_NAME)] | None = None
    """`hmac`, `header`, `vapi`: the header that holds the signature or the secret."""
    timestamp_header: Annotated[str, Field(pattern=_HEADER_NAME)] | None = None
    """`hmac`, `vapi`: the header that holds the time."""
    timestamp_unit: Literal["s", "ms"] = "s"
    """`hmac`, `vapi`: whether the time is in seconds or in milliseconds."""
    pairs: Words = ()
    """`hmac`, `vapi`: names of time and signature where the header holds both, such as `["t", "v1"]` for `t=1,v1=a`."""
    message: str = "{body}"
    """`hmac`, `vapi`: what is signed, such as `{timestamp}.{body}`."""
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    """`hmac`, `vapi`: the hash function."""
    encoding: Literal["hex", "base64"] = "hex"
    """`hmac`, `vapi`: how the signature is written."""
    prefix: str = ""
    """`hmac`, `vapi`: the prefix of the signature, such as `sha256=`."""
    secret_is_base64: bool = False
    """`hmac`, `vapi`: whether the secret is the base64 of the key."""
    fields: Texts = Field(default_factory=dict)
    """`hmac`, `header`: a JSON pointer for each member of the call log, such as `call_id = "/call/id"`."""
    event_names: Texts = Field(default_factory=dict)
    """`hmac`, `header`: maps the sender's event types to `call_started`, `call_ended` and others."""

    @field_validator("path")
    @classmethod
    def _path_is_one(cls, path: str | None) -> str | None:
        if path is not None and not _PATH.fullmatch(path):
            raise ValueError("should be a path such as /api/webhooks/elevenlabs/call-ended")
        return path

    @field_validator("message")
    @classmethod
    def _message_holds_the_body(cls, message: str) -> str:
        if message.count("{body}") != 1:
            raise ValueError("should contain {body} once, and may contain {timestamp}")
        return message

    @field_validator("pairs")
    @classmethod
    def _pairs_are_two(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        if len(pairs) not in {0, 2}:
            raise ValueError("should be two names, that of the time and that of the signature")
        return pairs

    @field_validator("header", "fields")
    @classmethod
    def _belongs_to_the_provider(cls, value: Any, info: ValidationInfo) -> Any:  # Any: of two fields
        provider = info.data.get("provider")
        if info.field_name == "header" and provider in _MAPPED and value is None:
            raise PydanticCustomError("missing", "is required for this provider")
        if info.field_name == "fields" and value and provider is not None and provider not in _MAPPED:
            raise ValueError("is only for the providers hmac and header: the others' events are known")
        return value

    @field_validator("fields")
    @classmethod
    def _are_pointers(cls, fields: dict[str, str]) -> dict[str, str]:
        for name, pointer in fields.items():
            if name not in MAPPABLE:
                raise ValueError(f"has no member {name}; known are: {', '.join(sorted(MAPPABLE))}")
            if not _POINTER.fullmatch(pointer):
                raise ValueError(f"should give {name} a JSON pointer (RFC 6901), such as /call/id")
        return fields

    @property
    def copies(self) -> bool:
        """Whether the recordings that it refers to are fetched."""
        return self.recordings is RecordingMode.COPY

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it posts to."""
        usual = f"/webhooks/{self.name}"
        other = self.path or (ELEVENLABS_PATH if self.name == "elevenlabs" else usual)
        return tuple(dict.fromkeys((usual, other)))


class WebhookSettings(ListenerTable):
    """The listener that providers post to."""

    listen: OptionalListen = None
    """Where providers post webhooks, such as `127.0.0.1:7719`; by default nowhere."""
    public_url: Endpoint | None = None
    """The URL by which providers reach this listener, without a path: Twilio signs it."""
    recordings: Directory | None = None
    """The directory for recordings; by default they go to the first bucket that belongs to no tenant, and without one,
    audio inside a webhook stays in the call log. Those of a tenant with a bucket always go to that bucket."""
    recording_hosts: UploadHostList = ()
    """Hosts, `*.names` and networks to download recordings from, besides names with public addresses."""
    forward_timeout: Duration = 7.0
    """How long the server behind `forward_url` may take to answer: Vapi waits 7.5 s."""


def recordings_bucket(
    tenant: str | None, destinations: Iterable[Destination], own: Mapping[str, Collection[str]]
) -> S3Destination | None:
    """The bucket for the recordings of a tenant's sources: its own first bucket; with None, the first one that belongs
    to no tenant. `own` has the names of each tenant's destinations."""
    taken = {name for names in own.values() for name in names}
    wanted = [each for each in destinations if isinstance(each, S3Destination)]
    if tenant is None:
        return next((each for each in wanted if each.name not in taken), None)
    return next((each for each in wanted if each.name in own.get(tenant, ())), None)


def check_recordings(
    webhooks: WebhookSettings,
    sources: Iterable[SourceSettings],
    destinations: Sequence[Destination],
    own: Mapping[str, Collection[str]],
) -> None:
    """Raises `PydanticCustomError` if copied recordings have no place to go. `own` as for `recordings_bucket`."""
    copying = [each for each in sources if each.copies]
    for number, each in enumerate(destinations):
        if copying and each.name == "recordings":
            advice = "none may be named recordings if a source copies them: callspool uses that name"
            raise PydanticCustomError("conflict", "{advice}", {"path": ("destinations", number), "advice": advice})
    if webhooks.recordings is not None or recordings_bucket(None, destinations, own) is not None:
        return
    for source in copying:
        if source.tenant is None or recordings_bucket(source.tenant, destinations, own) is None:
            whose = "of no tenant" if source.tenant is None else f"of {source.tenant} or of no tenant"
            advice = f"should be set, or a bucket {whose} added: recordings of the source {source.name} have no place"
            raise PydanticCustomError("conflict", "{advice}", {"path": ("webhooks", "recordings"), "advice": advice})


# Sources that environment variables alone can add.

SOURCE_VARIABLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "CALLSPOOL_ELEVENLABS_SECRET": ("elevenlabs", "secrets"),
        "CALLSPOOL_RETELL_KEY": ("retell", "secrets"),
        "CALLSPOOL_VAPI_SECRET": ("vapi", "secrets"),
        "CALLSPOOL_LIVEKIT_SECRET": ("livekit", "secrets"),
        "CALLSPOOL_LIVEKIT_KEY": ("livekit", "api_key"),
    }
)
"""From each variable to the provider, which is also the name of the source, and to the field that it sets."""
SECRET_SOURCE_VARIABLES = tuple(name for name, (_, field) in SOURCE_VARIABLES.items() if field == "secrets")


def with_sources(layer: Layer, environment: Mapping[str, str]) -> Layer:
    """The layer with the sources that variables add; a variable overrides its field in a source of the file."""
    given = layer.tree.get("sources", [])
    named = {name: field for name, field in SOURCE_VARIABLES.items() if environment.get(name)}
    if not named or not isinstance(given, list):
        return layer
    sources, origins = list(given), dict(layer.origins)
    for variable, (provider, field) in named.items():
        index = next((at for at, item in enumerate(sources) if _is(provider, item)), len(sources))
        if index == len(sources):
            sources.append({"name": provider, "provider": provider})
            origins["sources", index, "name"] = variable
        sources[index] = {**sources[index], field: environment[variable]}
        origins["sources", index, field] = variable
    return Layer({**layer.tree, "sources": sources}, origins)


def _is(provider: str, item: object) -> bool:
    return isinstance(item, dict) and item.get("name") == provider


def source_problems(layer: Layer) -> Iterator[Problem]:
    """Problems of the list as a whole: a duplicate name or path, sources without a listener."""
    sources = [item for item in layer.tree.get("sources", []) if isinstance(item, dict)]
    used = Counter(key for item in sources for key in (item.get("name"), item.get("path")) if isinstance(key, str))
    for key, count in used.items():
        if count > 1:
            yield Problem(key="sources", value=f'"{key}"', advice=f"{count} have this: each needs its own")

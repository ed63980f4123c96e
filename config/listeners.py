"""The listeners: their common settings (address, Unix socket, TLS), the intake, and the admin listener.

The intake's settings include those for live calls: spans, heartbeats, turns.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from config.types import (
    Duration,
    Endpoint,
    HeaderToken,
    Listen,
    Names,
    OptionalFile,
    OptionalListen,
    OptionalSize,
    Owner,
    Proxies,
    Size,
    SocketMode,
    Table,
    Tokens,
    Variable,
    Wait,
    Words,
)
from config.values import ADMIN_LISTEN, DAY, GIB, INTAKE_LISTEN, MIB, MINUTE, format_size


class ListenerTable(Table):
    """The settings of a listener."""

    listen: OptionalListen = None
    """Where to listen; None: nowhere."""
    socket_mode: SocketMode = 0o600
    """With a Unix socket: the mode of its file."""
    socket_owner: Owner = None
    """With a Unix socket: the owner of its file, as `USER`, `USER:GROUP` or `:GROUP`."""
    tls_cert_file: OptionalFile = None
    """PEM file with the certificate and its intermediates; turns TLS on, and is reloaded when it changes."""
    tls_key_file: OptionalFile = None
    """PEM file with the key; by default `tls_cert_file` holds it."""
    tls_client_ca_file: OptionalFile = None
    """PEM file with authorities, one of which must have signed each client's certificate (mutual TLS)."""

    @field_validator("tls_cert_file")
    @classmethod
    def _a_unix_socket_has_no_tls(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        listen = info.data.get("listen")
        if path is not None and listen is not None and listen.path is not None:
            raise ValueError("should not be given with a Unix socket, whose mode and owner say who may connect")
        return path

    @field_validator("tls_key_file", "tls_client_ca_file")
    @classmethod
    def _tls_needs_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and "tls_cert_file" in info.data and info.data["tls_cert_file"] is None:
            raise ValueError("needs `tls_cert_file`")
        return path


def _default_inline_max(checked: dict[str, Any]) -> int:  # Any: pydantic's own type here
    """16 MiB, or a smaller memory budget: setting the budget alone is enough."""
    budget: int = checked.get("memory_budget", 16 * MIB)
    return min(16 * MIB, budget)


class IntakeSettings(ListenerTable):
    """The listener that agents post to."""

    listen: Listen = INTAKE_LISTEN
    """Where agents post to: `HOST:PORT`, or `unix:PATH` for a Unix socket."""
    socket_mode: SocketMode = 0o660
    """With a Unix socket: the mode of its file; users who may write to it may post."""
    token: HeaderToken | None = None
    """Required from agents, as `x-pype-token` or bearer token; without it, all but web pages may post."""
    hosts: Names = ()
    """Without `token`: host names to accept posts for, besides addresses, names without a dot and cluster names."""
    public_url: Endpoint | None = None
    """Base URL of upload addresses, as agents reach this gateway, such as `https://logs.example.com`."""
    trusted_proxies: Proxies = ()
    """Addresses and networks of proxies (`unix`: at the socket) whose `X-Forwarded-Host` and `-Proto` are trusted."""
    batch_max_lines: Annotated[int, Field(ge=1)] = 10_000
    """The most call logs in one NDJSON batch."""
    memory_budget: Annotated[Size, Variable("CALLSPOOL_MEMORY_BUDGET")] = 64 * MIB
    """Memory for the bodies of all posts together; while it is used up, posts wait."""
    inline_max: Size = Field(default_factory=_default_inline_max)
    """Posts up to this size are read into memory, larger ones go to disk; at most the memory budget."""
    memory_wait: Annotated[Wait, Variable("CALLSPOOL_MEMORY_WAIT")] = 3.0
    """How long a small post or a batch waits for memory before it is answered 503; large posts go to disk."""
    progress_timeout: Duration = 10.0
    """A post that delivers less than 64 KiB within this time is aborted."""
    header_timeout: Duration = 10.0
    """How long the headers of a request may take to arrive."""
    connections_max: Annotated[int, Field(ge=1)] = 4096
    """The most connections; beyond it, the longest idle one is closed. Also limited by file descriptors."""
    body_max: OptionalSize = None
    """The largest post as sent; a larger one is answered 413."""
    decoded_max: Size = 4 * GIB
    """The largest post after decompression."""
    decoded_ratio_max: Annotated[int, Field(ge=1)] = 1000
    """The largest decompression ratio of a post."""
    upload_url_ttl: Duration = 15 * MINUTE
    """How long an upload address from get-upload-url is valid."""
    duplicate_window: Wait = DAY
    """How long a repeated post is recognised and acknowledged without being stored again; 0 turns this off."""

    @field_validator("inline_max")
    @classmethod
    def _budget_holds_one_post(cls, inline: int, info: ValidationInfo) -> int:
        budget = info.data.get("memory_budget", inline)
        if inline > budget:
            raise ValueError(f"should be at most intake.memory_budget ({format_size(budget)})")
        return inline


class AdminSettings(ListenerTable):
    """The listener for people and scrapers: metrics, health, status page."""

    listen: Listen = ADMIN_LISTEN
    """Where metrics, health and the status page are served: `HOST:PORT`, or `unix:PATH` for a Unix socket."""
    token: Tokens = ()
    """Tokens of the role `admin`, at least 16 characters each, besides the random one in the spool's directory."""
    operate_token: Tokens = ()
    """Tokens of the role `operate`: `read`, and orders that lose nothing (replay, retry, resume)."""
    read_token: Tokens = ()
    """Tokens of the role `read`: lists, traces, and the contents of call logs."""
    hosts: Names = ()
    """Host names to accept requests for, besides addresses, names without a dot and cluster names."""

    @field_validator("operate_token", "read_token")
    @classmethod
    def _a_token_has_one_role(cls, tokens: tuple[SecretStr, ...], info: ValidationInfo) -> tuple[SecretStr, ...]:
        for role in ("token", "operate_token"):
            if info.field_name != role and set(tokens) & set(info.data.get(role, ())):
                raise ValueError(f"should hold no token that stands in admin.{role}, too: it would have two roles")
        return tokens


# Data of live calls.


class OtlpSettings(Table):
    """Spans that agents export by OpenTelemetry, to `/v1/traces` of the intake."""

    enabled: bool = True
    """Whether `/v1/traces` is served. Protobuf needs `callspool[otlp]`; JSON needs nothing."""
    call_id_attributes: Words = ()
    """Attributes with the call id, tried before those of LiveKit, Pipecat and OpenTelemetry; else the trace id."""
    close_after: Duration = 5.0
    """A call whose root span has arrived is closed when no span has arrived for this long."""
    idle_after: Duration = 5 * MINUTE
    """Any call is closed when no span has come for this long."""
    drop_attributes: Words = ()
    """Attributes to leave out, such as the chat that each span repeats; `lk.pii.*` means all with that prefix."""
    drop_pii: bool = False
    """Whether to leave out spoken words: `lk.pii.*`, messages, prompts, tool calls; and with them the transcript."""


class LiveSettings(Table):
    """Heartbeats and turns of live calls, to `/v1/calls/{call_id}/heartbeat` and `/turns` of the intake."""

    enabled: bool = True
    """Whether heartbeats and turns are accepted."""
    lost_after: Annotated[Duration, Field(ge=5)] = 60.0
    """An agent that sent heartbeats counts as lost when nothing has come from it for this long: three heartbeats."""

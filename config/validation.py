"""Turns pydantic's errors about a tree into problems that name a key, its value and what would be valid."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from config.catalogue import is_secret, nested_model
from config.destinations import DESTINATION_TYPES, DestinationTable, type_name
from config.destinations.stores import StoreTable
from config.layers import KeyPath, Layer, Problem, did_you_mean, first_origin, first_value, readable
from config.settings import Settings, listeners_of
from config.sources import ProviderName, SourceSettings
from config.tenants import TenantSettings
from config.types import LEAST_TOKEN
from config.values import MASK, crosses_network_in_clear, mask_address
from uploaders.upload_hosts import UploadHosts

_LONGEST_VALUE = 80

_CONSEQUENCE = "default_factory_not_called"
"""A default that depends on other fields could not be made, because one of those is wrong: reported already."""

_ADVICE = {
    "missing": "is required",
    "model_type": "should be a table",
    "model_attributes_type": "should be a table",
    "tuple_type": "should be an array of tables: [[destinations]]",
    "string_pattern_mismatch": "should be 1 to 32 of the characters a to z, 0 to 9 and -",
    "path_not_file": "should be the path of a file that exists",
}


def problems_of(error: ValidationError, layers: Sequence[Layer]) -> Iterator[Problem]:
    """Every problem that a check of these layers found; the first layer wins over the others."""
    for details in error.errors(include_url=False, include_input=False):
        if details["type"] != _CONSEQUENCE:
            yield _problem(details, layers)


def _problem(details: ErrorDetails, layers: Sequence[Layer]) -> Problem:
    path = _path(details)
    origin = first_origin(layers, path)
    key = readable(path, layers)
    if details["type"] == "extra_forbidden":
        return Problem(key, did_you_mean(str(path[-1]), _fields_of(path[:-1], layers)), MASK, origin)
    return Problem(key, _advice(details), _shown(path, layers), origin)


def _path(details: ErrorDetails) -> KeyPath:
    """The path of the value in the tree: without the member of the union, with the field that a rule names, or the
    whole path if a rule about several tables gives it."""
    blamed: KeyPath | None = details.get("ctx", {}).get("path")
    if blamed is not None:
        return blamed
    location = tuple(details["loc"])
    if location[:1] == ("destinations",) and len(location) > 2:
        location = location[:2] + location[3:]
    if details["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return (*location, "type")
    field = details.get("ctx", {}).get("field")
    return (*location, field) if field else location


def _advice(details: ErrorDetails) -> str:
    kind = details["type"]
    if kind in _ADVICE:
        return _ADVICE[kind]
    if kind.startswith("union_tag"):
        return f"should be one of: {', '.join(type_name(model) for model in DESTINATION_TYPES)}"
    return details["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _shown(path: KeyPath, layers: Sequence[Layer]) -> str | None:
    value = first_value(layers, path)
    if value is None or isinstance(value, dict | list):
        return None
    field = _fields_of(path[:-1], layers).get(str(path[-1]))
    if field is None or is_secret(field):
        return MASK
    text = json.dumps(mask_address(value) if isinstance(value, str) else value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _fields_of(path: KeyPath, layers: Sequence[Layer]) -> Mapping[str, FieldInfo]:
    """The fields of the table at a path; none if the settings have no such table."""
    model: type[BaseModel] | None = Settings
    for depth, step in enumerate(path):
        if isinstance(step, int) and path[0] == "sources":
            model = SourceSettings
        elif path[:depth] == ("tenants",):
            model = TenantSettings
        elif isinstance(step, int):
            tag = first_value(layers, (*path[: depth + 1], "type"))
            model = next((each for each in DESTINATION_TYPES if type_name(each) == tag), DestinationTable)
        elif step not in {"destinations", "sources"}:
            field = model.model_fields.get(step) if model else None
            model = nested_model(field) if field else None
    return model.model_fields if model else {}


# Settings that are allowed, but that an operator should look at.


def warnings(settings: Settings) -> tuple[str, ...]:
    """One sentence for each thing that an operator should know before the start."""
    return (
        *_listener_warnings(settings),
        *_source_warnings(settings),
        *_reference_warnings(settings),
        *_warnings_without_a_store(settings),
        *chain.from_iterable(
            each.warnings(core_max_bytes=settings.split.core_max_bytes) for each in settings.destinations
        ),
    )


def _warnings_without_a_store(settings: Settings) -> Iterator[str]:
    if any(isinstance(each, StoreTable) for each in settings.destinations):
        return
    if settings.references.buckets:
        yield "references.buckets says what may be read for a store, and no destination is a store: nothing is read"
    for destination in settings.destinations:
        if destination.events and "call_complete" in destination.events:
            yield (
                f"destinations[{destination.name}].events names call_complete, which a receiver makes of the calls in "
                "its store, and no destination is a store: only what is posted as that comes"
            )


def _source_warnings(settings: Settings) -> Iterator[str]:
    for source in settings.sources:
        if not source.secrets:
            yield f"sources[{source.name}].secrets is empty: what it sends is answered 503 until it is set"
        if source.provider is ProviderName.TWILIO and settings.webhooks.public_url is None:
            yield f"sources[{source.name}]: Twilio signs the address that it posts to: set webhooks.public_url"
    if UploadHosts((), settings.webhooks.recording_hosts).lists_metadata_service:
        yield (
            "webhooks.recording_hosts allows 169.254.169.254, where clouds give out credentials: a provider may name "
            "it as the address of a recording"
        )


def _reference_warnings(settings: Settings) -> Iterator[str]:
    if settings.references.buckets and crosses_network_in_clear(settings.references.endpoint_url):
        yield "references.endpoint_url is not https: call logs cross the network readable by anyone on the way"


def _listener_warnings(settings: Settings) -> Iterator[str]:
    if not settings.intake.listen.loopback and settings.intake.token is None:
        yield (
            f"intake.listen = {settings.intake.listen} can be reached from other machines, "
            "and without intake.token it accepts posts from anyone"
        )
    if settings.intake.token is not None and len(settings.intake.token.get_secret_value()) < LEAST_TOKEN:
        yield f"intake.token has fewer than {LEAST_TOKEN} characters and can be guessed: `openssl rand -hex 32`"
    if not settings.admin.listen.loopback and settings.admin.tls_cert_file is None:
        yield (
            f"admin.listen = {settings.admin.listen} can be reached from other machines, and without "
            "admin.tls_cert_file tokens and call logs cross the network readable by anyone on the way"
        )
    webhooks = settings.webhooks
    if webhooks.listen is not None and not webhooks.listen.loopback and webhooks.tls_cert_file is None:
        yield (
            f"webhooks.listen = {webhooks.listen} can be reached from other machines, and without "
            "webhooks.tls_cert_file calls and secrets cross the network readable by anyone on the way to it"
        )
    for section, listener in listeners_of(settings).items():
        if listener.listen is not None and listener.listen.path is not None and listener.socket_mode & 0o002:
            yield f"{section}.socket_mode = {listener.socket_mode:04o} lets every user of this machine connect"

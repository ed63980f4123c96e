"""Decodes JSON into structs so that a value of an unexpected type leaves itself out, and nothing else.

Agents write what they like into their telemetry. The fast way decodes a whole list at once; only when that fails
is each element, and then each field of it, decoded for itself.
"""

import re
import types
import typing
from functools import cache
from typing import Final, TypeVar

import msgspec

from spool.records import Buffer

Readable = Buffer | msgspec.Raw
Shape = TypeVar("Shape", bound=msgspec.Struct)

_MAX_REPAIRED: Final = 64 * 1024 * 1024
"""A value with lone surrogates is copied to be read; a larger one is not worth that."""
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_any_surrogate = re.compile(rb"\\u[dD][89a-fA-F]").search
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@cache
def _decoder(kind: typing.Any) -> msgspec.json.Decoder[typing.Any]:  # a union of types has no narrower type
    return msgspec.json.Decoder(kind)


def read_list(kind: type[Shape], raw: Readable) -> list[Shape] | None:
    """The elements of a JSON array as structs of this kind; None when it is no array that can be read.

    An element that is no object counts as one whose fields are all missing: `kind` has a default for each.
    """
    try:
        whole: list[Shape] = _decoder(list[kind]).decode(raw)  # type: ignore[valid-type]  # a type made at run time
    except (msgspec.DecodeError, RecursionError):
        return _each(kind, raw)
    return whole


def read_object(kind: type[Shape], raw: Readable) -> Shape:
    """A JSON object as a struct of this kind, without the fields that do not fit."""
    try:
        whole: Shape = _decoder(kind).decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return _field_by_field(kind, raw)
    return whole


def read_elements(raw: Readable) -> list[msgspec.Raw] | None:
    """The elements of a JSON array as they came; None when it is no array that can be read."""
    try:
        return _elements(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def read_members(raw: Readable) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON object as they came, the last of duplicates; None when it is none that can be read."""
    try:
        return _members(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def without_lone_surrogates(raw: Readable) -> bytes | None:
    """A copy of a JSON value with U+FFFD for each half of a surrogate pair; None when it has none or is too large."""
    view = memoryview(raw)
    if len(view) > _MAX_REPAIRED or not _any_surrogate(view):
        return None
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], view)


def _each(kind: type[Shape], raw: Readable) -> list[Shape] | None:
    elements = read_elements(raw)
    return None if elements is None else [read_object(kind, element) for element in elements]


def _field_by_field(kind: type[Shape], raw: Readable) -> Shape:
    values = read_members(raw) or {}
    fitting = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name in values and (value := _field(field.type, values[field.encode_name])) is not None:
            fitting[field.name] = value
    return kind(**fitting)


def _field(kind: typing.Any, raw: msgspec.Raw) -> object | None:  # as for _decoder
    try:
        value: object = _decoder(kind).decode(raw)
    except (msgspec.DecodeError, RecursionError):
        nested = [part for part in _parts(kind) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        return _field_by_field(nested[0], raw) if nested else None
    return value


def _parts(kind: typing.Any) -> tuple[typing.Any, ...]:  # as for _decoder
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)

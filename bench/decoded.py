"""What a request to an endpoint holds, however it was encoded: plain JSON, gzip, zstd, or the Whispey envelope."""

import base64
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import zstandard

TOP_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True)
class Request:
    """A decoded request before it is answered."""

    document: bytes
    members: Mapping[str, msgspec.Raw]
    encoding: str
    sent_bytes: int


def decode(body: bytes, encoding: str) -> Request:
    """What the sender meant. Raises `ValueError` for anything that is not a JSON object in a known encoding."""
    try:
        document = decompress(body, encoding)
        members = TOP_LEVEL.decode(document)
        if members.get("compressed") == msgspec.Raw(b"true"):
            encoding = "envelope"
            data = msgspec.json.decode(members["data"], type=str)
            document = gzip.decompress(base64.b64decode(data, validate=True))
            members = TOP_LEVEL.decode(document)
    except (OSError, EOFError, zstandard.ZstdError, msgspec.DecodeError, KeyError) as error:
        raise ValueError(f"not a call log: {error}") from error
    return Request(document, members, encoding, len(body))


def decompress(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "zstd":
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True)
        return reader.read()
    if encoding != "identity":
        raise ValueError(f"unknown encoding {encoding!r}")
    return body


def kind_of(members: Mapping[str, msgspec.Raw]) -> str:
    if "s3_reference" in members:
        return "notice"
    if "update_type" in members:
        return "detail"
    return "core" if "telemetry_summary" in members or "summary_metrics" in members else "whole"


def call_id_of(members: Mapping[str, msgspec.Raw]) -> str:
    return str(msgspec.json.decode(members.get("call_id", msgspec.Raw(b'""'))))

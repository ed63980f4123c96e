"""Upload addresses that an endpoint gives: pure, from its answer to what can be done with it and for how long."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

LONGEST_VALID_SECONDS = 15 * 60
"""After this an address is not used, whatever it says of itself."""

_SEND_PATH = "/send-call-log"
_ADDRESS_PATH = "/get-upload-url"
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


class BadAddress(ValueError):
    """What the endpoint answered is no upload address that may be used."""


class _Told(msgspec.Struct):
    """The answer to a request for an address; other members are passed over."""

    upload_url: str
    s3_key: str | None = None
    s3_bucket: str | None = None


@dataclass(frozen=True, slots=True)
class UploadAddress:
    """Where to PUT a call log, once. `url` is a secret: who has it may upload."""

    url: str = field(repr=False)
    valid_until: int
    """Milliseconds since the Unix epoch; not to be used from then on."""
    location: str | None
    """The object as `s3://bucket/key`, where bucket and key are known."""


def address_request_url(endpoint: str) -> str:
    """Where an endpoint is asked for an address: its own URL with another last part, as the SDK makes it.

    Raises `ValueError` when the URL has no such part.
    """
    head, found, tail = endpoint.partition(_SEND_PATH)
    if not found:
        raise ValueError(f"the address for uploads cannot be made of a URL without {_SEND_PATH}: set it by itself")
    return f"{head}{_ADDRESS_PATH}{tail}"


def parse_address(body: bytes, *, asked_at: int, secure: bool) -> UploadAddress:
    """The address in an endpoint's answer to a request that was sent at `asked_at`. Raises `BadAddress`.

    Its time counts from the request, so that it is never used too late; `secure` demands https, because the call log
    goes there with the agent's token in it.
    """
    try:
        told = msgspec.json.decode(body, type=_Told)
        parts = urlsplit(told.upload_url)
        host = parts.hostname
    except (msgspec.DecodeError, ValueError) as error:
        raise BadAddress("the answer holds no upload_url") from error
    if parts.scheme not in {"https", "http"} or not host:
        raise BadAddress("its upload_url is no HTTP address")
    if secure and parts.scheme != "https":
        raise BadAddress("its upload_url is not https, as the endpoint itself is")
    bucket = told.s3_bucket or _bucket_in(host, parts.path, told.s3_key or "")
    location = f"s3://{bucket}/{told.s3_key}" if bucket and told.s3_key else None
    return UploadAddress(told.upload_url, asked_at + 1000 * _valid_seconds(parts.query), location)


def _valid_seconds(query: str) -> int:
    """What the address says of itself (`X-Amz-Expires`), where that is less."""
    told = parse_qs(query).get("X-Amz-Expires", [""])[0]
    return min(int(told), LONGEST_VALID_SECONDS) if _DIGITS.fullmatch(told) else LONGEST_VALID_SECONDS


def _bucket_in(host: str, path: str, key: str) -> str | None:
    """The bucket of an address: what stands before the key in its path, else the first label of its host."""
    named = unquote(path)
    if not key or not named.endswith(key):
        return None
    return named.removesuffix(key).strip("/") or host.partition(".")[0]

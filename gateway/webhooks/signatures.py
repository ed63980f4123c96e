"""Who sent a webhook: the signature schemes of providers, over the bytes as they came. Pure.

A scheme knows where a provider puts its signature and what it signs. All of them compare in constant time, accept any
of several secrets, so that one can be replaced without a gap, and refuse a time that is too far away in either
direction: what was recorded can be replayed only for so long, and a clock that is wrong shows.

Sources: the vendors' SDKs (elevenlabs 2.78, retell-sdk 6.2, livekit-protocol `webhook/`, telnyx 4.189, twilio 9.13) and
Vapi's OpenAPI document (HmacAuthenticationPlan). `tests/webhooks` checks them against the SDKs themselves.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from spool.records import Buffer


class Verdict(StrEnum):
    """What the signature of a webhook says."""

    GENUINE = "genuine"
    """One of the secrets made it, and its time is near."""
    MISSING = "missing_signature"
    """There is none, or none of this scheme's form."""
    STALE = "stale_signature"
    """Its time is too long ago, or too far ahead."""
    WRONG = "bad_signature"
    """None of the secrets made it for this body."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A verdict, and how far the sender's clock is from ours."""

    verdict: Verdict
    skew: float | None = None
    """Seconds by which the signature's time lies in the past, negative for the future; None without a time."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request as it came."""

    headers: Mapping[str, str]
    """Found without regard to case."""
    body: Buffer
    """The bytes that were signed."""
    url: str = ""
    """Where the provider sent it, as it names it."""


class Scheme(Protocol):
    """How a provider signs."""

    @property
    def header(self) -> str:
        """The header that must be there, for messages."""

    def claimed_at(self, headers: Mapping[str, str]) -> float | None:
        """The time that the headers alone name, in seconds since 1970. Raises `Malformed` without a signature."""

    def matches(self, secret: str, webhook: Webhook) -> bool:
        """Whether this secret signed this request. Raises `Malformed`."""

    def sign(self, secret: str, body: Buffer, now: float, url: str = "") -> dict[str, str]:
        """The headers that a provider would send with this body."""


class Malformed(Exception):
    """The request has no signature of the scheme's form."""


def check_headers(scheme: Scheme, headers: Mapping[str, str], now: float, tolerance: float) -> Verification | None:
    """What the headers alone rule out, before the body is read; None where the body must decide."""
    try:
        claimed_at = scheme.claimed_at(headers)
    except Malformed:
        return Verification(Verdict.MISSING)
    if claimed_at is None:
        return None
    skew = now - claimed_at
    return Verification(Verdict.STALE, skew) if abs(skew) > tolerance else None


def verify(scheme: Scheme, secrets: Sequence[str], webhook: Webhook, now: float, tolerance: float) -> Verification:
    """Whether any of `secrets` signed the request, within `tolerance` seconds of `now`.

    Every secret is tried, so that the time it takes says nothing about which one matched.
    """
    early = check_headers(scheme, webhook.headers, now, tolerance)
    if early is not None:
        return early
    try:
        claimed_at = scheme.claimed_at(webhook.headers)
        matched = [scheme.matches(secret, webhook) for secret in secrets]
    except Malformed:
        return Verification(Verdict.MISSING)
    skew = None if claimed_at is None else now - claimed_at
    return Verification(Verdict.GENUINE if any(matched) else Verdict.WRONG, skew)


# HMAC of the body, with or without a time: what almost every provider does, each with other headers.

_LONGEST_TIME = 20
_LATEST_TIME = 10**_LONGEST_TIME


class Encoding(StrEnum):
    """How the digest is written."""

    HEX = "hex"
    BASE64 = "base64"


class Algorithm(StrEnum):
    """The hash function of an HMAC."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA512 = "sha512"


@dataclass(frozen=True, slots=True)
class HmacScheme:
    """A keyed hash over `message`, in which `{body}` and `{timestamp}` stand for the request's own.

    Where `fields` are given, the header holds `name=value` pairs: the first names the time, the second the signature,
    which may be there several times. Otherwise the header is the signature, after `prefix`, and the time is in
    `timestamp_header`, if there is one.
    """

    header: str
    message: str = "{body}"
    fields: tuple[str, str] | None = None
    timestamp_header: str | None = None
    timestamp_unit: float = 1.0
    """How many of the time's units are a second."""
    algorithm: Algorithm = Algorithm.SHA256
    encoding: Encoding = Encoding.HEX
    prefix: str = ""
    secret_is_base64: bool = False

    def claimed_at(self, headers: Mapping[str, str]) -> float | None:
        """See `Scheme`."""
        text, _ = self._read(headers)
        return None if text is None else int(text) / self.timestamp_unit

    def matches(self, secret: str, webhook: Webhook) -> bool:
        """See `Scheme`."""
        text, presented = self._read(webhook.headers)
        expected = self._digest(secret, text or "", webhook.body)
        matches = [hmac.compare_digest(expected, digest) for digest in presented]
        return any(matches)

    def sign(self, secret: str, body: Buffer, now: float, url: str = "") -> dict[str, str]:  # noqa: ARG002
        """See `Scheme`."""
        text = str(int(now * self.timestamp_unit))
        digest = self._digest(secret, text, body)
        written = digest.hex() if self.encoding is Encoding.HEX else base64.b64encode(digest).decode()
        if self.fields is not None:
            return {self.header: f"{self.fields[0]}={text},{self.fields[1]}={written}"}
        signed = {self.header: f"{self.prefix}{written}"}
        return signed if self.timestamp_header is None else {**signed, self.timestamp_header: text}

    def _digest(self, secret: str, timestamp: str, body: Buffer) -> bytes:
        keyed = hmac.new(self._key(secret), digestmod=self.algorithm.value)
        for literal in re.split(r"(\{body\})", self.message):
            keyed.update(body if literal == "{body}" else literal.replace("{timestamp}", timestamp).encode())
        return keyed.digest()

    def _key(self, secret: str) -> bytes:
        return base64.b64decode(secret) if self.secret_is_base64 else secret.encode()

    def _read(self, headers: Mapping[str, str]) -> tuple[str | None, tuple[bytes, ...]]:
        """The time as it was sent, and the digests. Raises `Malformed`."""
        value = headers.get(self.header, "").strip()
        if self.fields is None:
            timestamp = None if self.timestamp_header is None else headers.get(self.timestamp_header, "").strip()
            written = [value.removeprefix(self.prefix)] if value.startswith(self.prefix) else []
        else:
            pairs = [part.strip().partition("=") for part in value.split(",")]
            times = [text for name, _, text in pairs if name == self.fields[0]]
            if len(times) != 1:
                raise Malformed
            timestamp = times[0]
            written = [text for name, _, text in pairs if name == self.fields[1]]
        digests = tuple(digest for digest in map(self._decoded, written) if digest)
        if not digests or (timestamp is not None and not _is_whole_number(timestamp)):
            raise Malformed
        return timestamp, digests

    def _decoded(self, written: str) -> bytes | None:
        try:
            if self.encoding is Encoding.HEX:
                return bytes.fromhex(written) if written.isalnum() else None  # `fromhex` skips blanks
            return base64.b64decode(written, validate=True)
        except (ValueError, binascii.Error):
            return None


def _is_whole_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_TIME


# A secret that travels with the request: no signature, so the body is protected by TLS alone.


@dataclass(frozen=True, slots=True)
class SecretHeaderScheme:
    """The secret itself, in a header or as a bearer."""

    header: str

    def claimed_at(self, headers: Mapping[str, str]) -> float | None:
        """See `Scheme`: there is no time."""
        if not self._presented(headers):
            raise Malformed
        return None

    def matches(self, secret: str, webhook: Webhook) -> bool:
        """See `Scheme`."""
        given = self._presented(webhook.headers)
        matches = [hmac.compare_digest(presented, secret.encode()) for presented in given]
        return any(matches)

    def sign(self, secret: str, body: Buffer, now: float, url: str = "") -> dict[str, str]:  # noqa: ARG002
        """See `Scheme`."""
        return {self.header: secret}

    def _presented(self, headers: Mapping[str, str]) -> list[bytes]:
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        given = [headers.get(self.header, ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        return [text.encode("utf-8", "surrogateescape") for text in given if text]


# LiveKit: a JSON web token (RFC 7519) whose claim `sha256` is the digest of the body.


@dataclass(frozen=True, slots=True)
class LivekitScheme:
    """`Authorization: TOKEN`, signed with the API secret by HS256; `api_key` is its issuer, where it is configured.

    Needs `pyjwt` (`callspool[webhooks]`).
    """

    api_key: str | None = None
    header: str = "Authorization"
    lifetime: float = 300.0
    """Seconds for which the tokens that `sign` makes are valid, as LiveKit's are."""

    def claimed_at(self, headers: Mapping[str, str]) -> float | None:
        """See `Scheme`: when the token became valid, or when one that expires at its time would have.

        A token without an end would be valid for ever: the SDK refuses it, too.
        """
        claims = self._claims(headers, None)
        issued, expires = _claimed_time(claims.get("nbf", claims.get("iat"))), _claimed_time(claims.get("exp"))
        if expires is None:
            raise Malformed
        latest = expires - self.lifetime
        return latest if issued is None else min(issued, latest)

    def matches(self, secret: str, webhook: Webhook) -> bool:
        """See `Scheme`."""
        claims = self._claims(webhook.headers, secret)
        claimed = claims.get("sha256")
        if not isinstance(claimed, str) or (self.api_key is not None and claims.get("iss") != self.api_key):
            return False
        digest = base64.b64encode(hashlib.sha256(webhook.body).digest())
        return hmac.compare_digest(claimed.encode("utf-8", "surrogateescape"), digest)

    def sign(self, secret: str, body: Buffer, now: float, url: str = "") -> dict[str, str]:  # noqa: ARG002
        """See `Scheme`."""
        import jwt  # noqa: PLC0415  # an extra, loaded where it is used

        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        claims = {"iss": self.api_key or "", "nbf": int(now), "exp": int(now + self.lifetime), "sha256": digest}
        return {self.header: jwt.encode(claims, secret, algorithm="HS256")}

    def _claims(self, headers: Mapping[str, str], secret: str | None) -> Mapping[str, object]:
        """What the token says; nothing where `secret` did not sign it. Raises `Malformed`.

        The library would judge the token's time by the machine's clock: that is done by `check_headers`.
        """
        import jwt  # noqa: PLC0415  # an extra, loaded where it is used

        token = headers.get(self.header, "").strip().removeprefix("Bearer ")
        try:
            # Any other algorithm is refused, `none` above all (RFC 8725, 3.1).
            claims: Mapping[str, object] = jwt.decode(
                token,
                secret or "",
                algorithms=["HS256"],
                options={
                    "verify_signature": secret is not None,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidSignatureError:
            return {}
        except (jwt.InvalidTokenError, ValueError):  # the second for a byte that is no UTF-8
            raise Malformed from None
        return claims


def _claimed_time(claim: object) -> float | None:
    """Seconds since 1970, if the claim is a number of them (RFC 7519, NumericDate)."""
    return float(claim) if isinstance(claim, int | float) and 0 <= claim < _LATEST_TIME else None


# Telnyx: Ed25519 over the time and the body; what is configured is the public key.

_WHOLE_BYTES = 1 << 20
"""What must be copied to be verified has a few KB. A larger body is nobody's: anybody may send one of any size."""


@dataclass(frozen=True, slots=True)
class TelnyxScheme:
    """`Telnyx-Signature-Ed25519` over `TIME|BODY`. Needs `cryptography` (`callspool[webhooks]`)."""

    header: str = "Telnyx-Signature-Ed25519"
    timestamp_header: str = "Telnyx-Timestamp"

    def claimed_at(self, headers: Mapping[str, str]) -> float | None:
        """See `Scheme`."""
        timestamp = headers.get(self.timestamp_header, "").strip()
        if not headers.get(self.header) or not _is_whole_number(timestamp):
            raise Malformed
        return float(timestamp)

    def matches(self, secret: str, webhook: Webhook) -> bool:
        """See `Scheme`; `secret` is the account's public key in base64."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # an extra, loaded where it is used
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

        if len(webhook.body) > _WHOLE_BYTES:
            return False
        try:
            signature = base64.b64decode(webhook.headers.get(self.header, ""), validate=True)
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(secret))
            key.verify(signature, self._signed(webhook.headers[self.timestamp_header].strip(), webhook.body))
        except (InvalidSignature, ValueError, binascii.Error):
            return False
        return True

    def sign(self, secret: str, body: Buffer, now: float, url: str = "") -> dict[str, str]:  # noqa: ARG002
        """See `Scheme`; `secret` is a private key in base64 here."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  # an extra

        timestamp = str(int(now))
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret))
        signature = key.sign(self._signed(timestamp, body))
        return {self.header: base64.b64encode(signature).decode(), self.timestamp_header: timestamp}

    @staticmethod
    def _signed(timestamp: str, body: Buffer) -> bytes:
        return timestamp.encode() + b"|" + bytes(body)


# Twilio: an HMAC over the public URL and the sorted fields of the form. There is no time in it.

_TWILIO_ALGORITHMS = {"HMAC_SHA1": Algorithm.SHA1, "HMAC_SHA256": Algorithm.SHA256}
_FORM = "application/x-www-form-urlencoded"
_FIELDS_MOST = 1000
"""A callback has some thirty."""
_BODY_DIGEST = "bodySHA256"
"""The parameter of the address that names the digest of a body that is no form."""


@dataclass(frozen=True, slots=True)
class TwilioScheme:
    """`X-Twilio-Signature`. What it signs begins with the URL that Twilio was given, so that must be configured."""

    header: str = "X-Twilio-Signature"
    settings_header: str = "X-Twilio-Webhooks-Signature-Settings"
    """Names the algorithm of a shared key, `key=ID,algorithm=HMAC_SHA256`; without it, it is HMAC_SHA1."""

    def claimed_at(self, headers: Mapping[str, str]) -> float | None:
        """See `Scheme`: there is no time."""
        if not headers.get(self.header):
            raise Malformed
        return None

    def matches(self, secret: str, webhook: Webhook) -> bool:
        """See `Scheme`."""
        parts = webhook.headers.get(self.settings_header, "").split(",")
        settings = dict(part.strip().partition("=")[::2] for part in parts)
        named = settings.get("algorithm", "").strip() or "HMAC_SHA1"
        algorithm = _TWILIO_ALGORITHMS.get(named.upper())
        if algorithm is None:
            raise Malformed
        presented = webhook.headers.get(self.header, "").encode("utf-8", "surrogateescape")
        fields = _form_fields(webhook)
        if fields is None:
            return False
        expected = [_twilio_signature(secret, url + fields, algorithm) for url in _with_and_without_port(webhook.url)]
        matches = [hmac.compare_digest(each, presented) for each in expected]
        return any(matches)

    def sign(self, secret: str, body: Buffer, now: float, url: str = "") -> dict[str, str]:  # noqa: ARG002
        """See `Scheme`."""
        fields = _form_fields(Webhook({}, body, url)) or ""
        return {self.header: _twilio_signature(secret, url + fields, Algorithm.SHA1).decode()}


def _form_fields(webhook: Webhook) -> str | None:
    """What of the body is signed besides the address; None where the digest in the address is not the body's, and for
    a form that is too large to be one.

    A body that is no form is not signed itself: the address names its digest, and is signed.
    """
    kind = webhook.headers.get("Content-Type", _FORM).partition(";")[0].strip().lower()
    digests = dict(parse_qsl(urlsplit(webhook.url).query)).get(_BODY_DIGEST)
    if digests is not None and kind != _FORM:
        matches = hmac.compare_digest(digests.lower().encode(), hashlib.sha256(webhook.body).hexdigest().encode())
        return "" if matches else None
    if len(webhook.body) > _WHOLE_BYTES:
        return None
    try:
        text = bytes(webhook.body).decode("utf-8", "replace")
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS_MOST)
    except ValueError:
        return None
    # A field that comes several times is signed once with each of its values, in order.
    return "".join(name + value for name, value in sorted(set(fields)))


def _twilio_signature(secret: str, signed: str, algorithm: Algorithm) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), signed.encode(), algorithm.value))


def _with_and_without_port(url: str) -> tuple[str, ...]:
    """Twilio signs some addresses with the port that their scheme implies, and some without one that they name."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        return (url,)
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    named = parts.netloc if port is not None or usual is None else f"{host}:{usual}"
    return tuple(dict.fromkeys((url, *(parts._replace(netloc=each).geturl() for each in (host, named)))))

"""The signature schemes: what each provider signs is accepted, and nothing else is."""

import json
from collections.abc import Mapping, Sequence

import pytest
from multidict import CIMultiDict

from gateway.webhooks.providers import PROVIDERS
from gateway.webhooks.signatures import (
    Algorithm,
    Encoding,
    HmacScheme,
    Scheme,
    SecretHeaderScheme,
    Verdict,
    Webhook,
    verify,
)
from tests.webhooks.senders import configured_secret, signing_secret

NOW = 1_700_000_000.0
URL = "https://hooks.example.com/webhooks/x"
BODY = '{"event":"call_ended","text":"é","cost":1.0}'.encode()
TOLERANCE = 300.0

GENERIC: dict[str, Scheme] = {
    "hmac with a prefix": HmacScheme("X-Hub-Signature-256", prefix="sha256="),
    "hmac with a time in base64": HmacScheme(
        "X-Signature", "{timestamp}.{body}", timestamp_header="X-Timestamp", encoding=Encoding.BASE64
    ),
    "hmac of sha512": HmacScheme("X-Signature", algorithm=Algorithm.SHA512),
    "a secret in base64": HmacScheme("X-Signature", secret_is_base64=True),
    "a secret in a header": SecretHeaderScheme("X-Secret"),
}
SCHEMES: dict[str, Scheme] = {name: provider.scheme for name, provider in PROVIDERS.items()} | GENERIC
TIMED = ("elevenlabs", "retell", "livekit", "telnyx", "hmac with a time in base64")
SIGNED = tuple(name for name in SCHEMES if not isinstance(SCHEMES[name], SecretHeaderScheme))


def secret_of(name: str) -> str:
    """For signing; a symmetric one is checked with the same."""
    return "c2VjcmV0IG9mIHRoZSB0ZXN0" if name == "a secret in base64" else signing_secret(name)


def checked(
    name: str, headers: Mapping[str, str], body: bytes = BODY, *, now: float = NOW, secrets: Sequence[str] | None = None
) -> Verdict:
    given = secrets or ("another-secret-that-was-here-before", _configured(name))
    if name == "a secret in base64":
        given = secrets or (secret_of(name),)
    return verify(SCHEMES[name], given, Webhook(CIMultiDict(headers), body, URL), now, TOLERANCE).verdict


def _configured(name: str) -> str:
    return configured_secret(name) if name in PROVIDERS else secret_of(name)


@pytest.mark.parametrize("name", SCHEMES)
def test_what_is_signed_is_accepted_by_any_of_the_secrets(name: str) -> None:
    """A signature of one of several secrets is genuine: a secret can be replaced without a gap."""
    assert checked(name, SCHEMES[name].sign(secret_of(name), BODY, NOW, URL)) is Verdict.GENUINE


@pytest.mark.parametrize("name", SIGNED)
def test_every_flipped_bit_of_the_body_is_noticed(name: str) -> None:
    """Each bit of the body is signed."""
    headers = SCHEMES[name].sign(secret_of(name), BODY, NOW, URL)
    if name == "twilio":  # a form: what is no field of one is not signed
        return
    for place in range(len(BODY)):
        changed = bytes([*BODY[:place], BODY[place] ^ 1, *BODY[place + 1 :]])
        assert checked(name, headers, changed) is Verdict.WRONG, place


def test_every_changed_field_of_a_form_is_noticed() -> None:
    """Twilio signs the address and each field, names and values."""
    body = b"CallSid=CA1&CallStatus=completed&Empty="
    headers = SCHEMES["twilio"].sign(secret_of("twilio"), body, NOW, URL)
    assert checked("twilio", headers, body) is Verdict.GENUINE
    for changed in (b"CallSid=CA2&CallStatus=completed&Empty=", b"CallSid=CA1&CallStatus=completed", body + b"&x=1"):
        assert checked("twilio", headers, changed) is Verdict.WRONG


@pytest.mark.parametrize("name", SIGNED)
def test_a_serialised_copy_of_the_body_is_refused(name: str) -> None:
    """The bytes are signed, not their meaning: what was parsed and written again does not verify."""
    if name == "twilio":
        return
    headers = SCHEMES[name].sign(secret_of(name), BODY, NOW, URL)
    assert checked(name, headers, json.dumps(json.loads(BODY)).encode()) is Verdict.WRONG


@pytest.mark.parametrize("name", SCHEMES)
def test_another_secret_is_refused(name: str) -> None:
    """A secret that is not configured signs nothing."""
    if name == "telnyx":
        other = "h4uYEUEQY5KyCkRXvAQDsAxJvjMjkqoPYxeVBsA+0S4="
        headers = SCHEMES[name].sign(other, BODY, NOW, URL)
    else:
        headers = SCHEMES[name].sign("bm90IHRoZSBzZWNyZXQgdGhhdCBpcyBjb25maWd1cmVk", BODY, NOW, URL)
    assert checked(name, headers) is Verdict.WRONG


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("off", [-3600.0, -301.0, 301.0, 31_536_000.0])
def test_a_time_far_away_is_stale_in_both_directions(name: str, off: float) -> None:
    """What was recorded cannot be replayed later, and what is dated ahead not kept for later."""
    assert checked(name, SCHEMES[name].sign(secret_of(name), BODY, NOW - off, URL)) is Verdict.STALE


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("off", [-298.0, 0.0, 298.0])
def test_a_time_within_the_tolerance_is_accepted(name: str, off: float) -> None:
    """Clocks differ a little."""
    assert checked(name, SCHEMES[name].sign(secret_of(name), BODY, NOW - off, URL)) is Verdict.GENUINE


@pytest.mark.parametrize("name", TIMED)
def test_the_time_is_signed(name: str) -> None:
    """A signature cannot be given a later time."""
    headers = SCHEMES[name].sign(secret_of(name), BODY, NOW - 3600, URL)
    fresh = SCHEMES[name].sign(secret_of(name), b"other", NOW, URL)
    scheme = SCHEMES[name]
    if isinstance(scheme, HmacScheme) and scheme.fields is not None:
        old, new = headers[scheme.header].split(","), fresh[scheme.header].split(",")
        moved = {scheme.header: f"{new[0]},{old[1]}"}
    elif "Telnyx-Timestamp" in headers or "X-Timestamp" in headers:
        moved = {**headers, **{key: fresh[key] for key in headers if key.endswith("Timestamp")}}
    else:
        _, _, signature = headers["Authorization"].rpartition(".")
        moved = {"Authorization": f"{fresh['Authorization'].rpartition('.')[0]}.{signature}"}
    assert checked(name, moved) in {Verdict.WRONG, Verdict.MISSING}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    "value", ["", "  ", "t=,v0=", "t=1,v0=zz", "=", ",,,", "v=17e8,d=00", "a.b.c", "é", "t=" + "9" * 400 + ",v0=00"]
)
def test_what_is_no_signature_is_never_genuine(name: str, value: str) -> None:
    """Whatever stands in the header: nothing is raised, and nothing is let in."""
    scheme = SCHEMES[name]
    headers = {scheme.header: value, "Telnyx-Timestamp": value, "X-Timestamp": value}
    assert checked(name, headers) in {Verdict.MISSING, Verdict.WRONG, Verdict.STALE}


@pytest.mark.parametrize("name", SCHEMES)
def test_no_header_is_no_signature(name: str) -> None:
    """Without its header a request is refused before its body is read."""
    assert checked(name, {}) is Verdict.MISSING


def test_the_published_vector_of_retell_is_accepted() -> None:
    """The vector of retell-sdk's own tests (`tests/test_webhook_auth.py`)."""
    digest = "07024cabe7dd8f6d1c6e4a8324ca92c812e6ad4a7ee506c04f7e462e3321823e"
    headers = {"X-Retell-Signature": f"v=1700000000000,d={digest}"}
    assert checked("retell", headers, b'{"event":"call_ended"}', secrets=("test-api-key",)) is Verdict.GENUINE


def test_several_signatures_of_elevenlabs_are_tried() -> None:
    """While ElevenLabs rotates its secret, it sends a signature of each."""
    scheme = PROVIDERS["elevenlabs"].scheme
    genuine = scheme.sign(secret_of("elevenlabs"), BODY, NOW)[scheme.header]
    time, signature = genuine.split(",")
    headers = {scheme.header: f"{time},v0={'0' * 64},{signature}"}
    assert checked("elevenlabs", headers) is Verdict.GENUINE


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_a_token_of_another_algorithm_is_refused(algorithm: str) -> None:
    """The sender does not choose how it is verified (RFC 8725, 3.1)."""
    import jwt

    claims = {"iss": "key", "nbf": int(NOW), "exp": int(NOW) + 300, "sha256": "x"}
    token = jwt.encode(claims, "" if algorithm == "none" else secret_of("livekit") * 2, algorithm=algorithm)
    assert checked("livekit", {"Authorization": token}) is Verdict.MISSING


@pytest.mark.parametrize("claim", ["nbf", "iat", "exp"])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), float("nan"), float("inf"), "soon", None],
    ids=["beyond all bounds", "before all times", "nan", "inf", "a text", "null"],
)
def test_a_token_whose_times_are_none_is_refused(claim: str, value: object) -> None:
    """Before its signature is looked at: anybody can write a token."""
    import jwt

    token = jwt.encode({"exp": int(NOW) + 300, claim: value}, "x" * 32, algorithm="HS256")
    assert checked("livekit", {"Authorization": token}) is not Verdict.GENUINE


@pytest.mark.parametrize("name", SCHEMES)
def test_bytes_that_are_no_text_are_no_signature(name: str) -> None:
    """A header may hold any bytes."""
    broken = b"\xff".decode("utf-8", "surrogateescape")
    scheme = SCHEMES[name]
    genuine = scheme.sign(secret_of(name), BODY, NOW, URL)
    assert checked(name, {**genuine, scheme.header: broken}) in {Verdict.MISSING, Verdict.WRONG}


@pytest.mark.parametrize(
    ("name", "body"),
    [("twilio", b"a=" + b"x" * (8 << 20)), ("twilio", b"a&" * 500_000), ("telnyx", b"x" * (8 << 20))],
    ids=["a long field", "many fields", "many bytes"],
)
def test_a_body_of_any_size_is_refused_in_little_memory(name: str, body: bytes) -> None:
    """Nobody has to know a secret to post one: it is not copied, nor its fields, to be found wrong."""
    import tracemalloc

    headers = {**SCHEMES[name].sign(secret_of(name), b"", NOW, URL)}
    tracemalloc.start()
    try:
        assert checked(name, headers, body) is Verdict.WRONG
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20, f"{peak >> 20} MiB"


def test_a_bearer_is_taken_for_the_header() -> None:
    """Vapi sends its secret as a bearer, too."""
    assert checked("vapi", {"Authorization": f"Bearer {secret_of('vapi')}"}) is Verdict.GENUINE
    assert checked("vapi", {"Authorization": f"Basic {secret_of('vapi')}"}) is Verdict.MISSING


def test_twilio_signs_by_the_algorithm_that_it_names() -> None:
    """A shared key of Twilio signs with SHA-256; an algorithm that is not known is no signature."""
    import base64
    import hmac

    digest = hmac.digest(secret_of("twilio").encode(), f"{URL}a1b2".encode(), "sha256")
    signed = {"X-Twilio-Signature": base64.b64encode(digest).decode()}
    named = {**signed, "X-Twilio-Webhooks-Signature-Settings": "key=k1,algorithm=HMAC_SHA256"}
    assert checked("twilio", named, b"b=2&a=1") is Verdict.GENUINE
    assert checked("twilio", signed, b"b=2&a=1") is Verdict.WRONG
    other = {**signed, "X-Twilio-Webhooks-Signature-Settings": "algorithm=MD5"}
    assert checked("twilio", other, b"b=2&a=1") is Verdict.MISSING


def test_settings_describe_how_any_sender_signs() -> None:
    """Time and signature in one header, a time in milliseconds, another provider's tolerance."""
    from config.sources import SourceSettings
    from gateway.runtime.sources import provider_of

    settings = SourceSettings.model_validate(
        {
            "name": "s",
            "provider": "hmac",
            "header": "Signature",
            "message": "{timestamp}.{body}",
            "pairs": ["t", "v1"],
            "timestamp_unit": "ms",
            "secrets": ["x"],
        }
    )
    scheme = provider_of(settings).scheme
    headers = scheme.sign("x", BODY, NOW)
    assert headers["Signature"].startswith("t=1700000000000,v1=")
    assert verify(scheme, ("x",), Webhook(headers, BODY), NOW + 1, 2.0).verdict is Verdict.GENUINE
    assert verify(scheme, ("x",), Webhook(headers, BODY), NOW + 3, 2.0).verdict is Verdict.STALE
    with pytest.raises(ValueError, match="two names"):
        SourceSettings.model_validate({**settings.model_dump(exclude={"secrets"}), "pairs": ["t"]})

"""The providers' own SDKs and ours: each accepts what the other signs, and refuses what the other refuses.

Where ours differs on purpose, a test says so.
"""

import base64
import datetime
import hashlib
import time
from functools import cache
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import pytest
from multidict import CIMultiDict, MultiDict

from gateway.webhooks.providers import PROVIDERS
from gateway.webhooks.signatures import LivekitScheme, Scheme, Verdict, Webhook, verify
from tests.webhooks import vendors
from tests.webhooks.senders import SECRET, configured_secret, signing_secret

BODIES = [
    b'{"event":"call_ended"}',
    '{"event":"call_ended","text":"é \\u00e9 \U0001f600","cost":1.0}'.encode(),
    b'{ "event" : "call_ended" ,\r\n"n": 12345678901234567890 }\n',
    b"",
    b'{"text":"' + b"x" * 100_000 + b'"}',
]
"""Bodies whose bytes matter: accents, blanks, an empty one."""
NAMES = ["plain", "accents", "blanks", "empty", "large"]
each_body = pytest.mark.parametrize("body", BODIES, ids=NAMES)


def ours(
    name: str,
    headers: dict[str, str],
    body: bytes,
    *,
    secret: str | None = None,
    url: str = "",
    scheme: Scheme | None = None,
) -> bool:
    """Whether callspool takes it for genuine, now, with the provider's own tolerance."""
    provider = PROVIDERS[name]
    webhook = Webhook(CIMultiDict(headers), body, url)
    secrets = (secret or configured_secret(name),)
    verification = verify(scheme or provider.scheme, secrets, webhook, time.time(), provider.tolerance)
    return verification.verdict is Verdict.GENUINE


def flipped(body: bytes) -> bytes:
    """One bit of it changed, so that it is still a text."""
    return bytes([*body[:-1], body[-1] ^ 1]) if body else b"0"


# Retell.


@cache
def retell() -> Any:
    return vendors.module_of("retell_sdk", "retell/lib/webhook_auth")


@each_body
def test_retell_and_we_accept_what_the_other_signs(body: bytes) -> None:
    """Its key signs the raw body and then the time."""
    text = body.decode()
    signed = retell().symmetric["sign"](text, SECRET)
    assert ours("retell", {"X-Retell-Signature": signed}, body)
    assert not ours("retell", {"X-Retell-Signature": signed}, flipped(body))
    made = PROVIDERS["retell"].scheme.sign(SECRET, body, time.time())["X-Retell-Signature"]
    assert retell().verify(text, SECRET, made)
    assert not retell().verify(flipped(body).decode(), SECRET, made)


@pytest.mark.parametrize("off", [-600, -310, -290, 0, 290, 310, 600])
def test_retell_and_we_have_the_same_tolerance(off: int) -> None:
    """Five minutes, in both directions."""
    at = int(time.time() + off)
    signed = retell().symmetric["sign"]("{}", SECRET, at * 1000)
    assert ours("retell", {"X-Retell-Signature": signed}, b"{}") is retell().verify("{}", SECRET, signed)


MALFORMED = [
    "",
    "v=1",
    "d=00",
    "v=x,d=" + "0" * 64,
    "v={now},d=" + "0" * 63,
    "v={now},d=" + "g" * 64,
    "v={now},d={d},x=1",
]


@pytest.mark.parametrize("form", MALFORMED)
def test_what_retell_finds_malformed_is_not_genuine(form: str) -> None:
    """Nothing that its own SDK refuses is let in."""
    header = form.replace("{now}", str(int(time.time() * 1000))).replace("{d}", "0" * 64)
    assert not retell().verify("{}", SECRET, header)
    assert not ours("retell", {"X-Retell-Signature": header}, b"{}")


# ElevenLabs: its SDK verifies and does not sign.


@cache
def elevenlabs() -> Any:
    return vendors.elevenlabs()


def accepted_by_elevenlabs(body: bytes, header: str, secret: str = SECRET) -> bool:
    client, refused = elevenlabs()
    try:
        client.construct_event(body.decode(), header, secret)
    except refused:
        return False
    return True


@pytest.mark.parametrize("body", [body for body in BODIES if body], ids=[name for name in NAMES if name != "empty"])
def test_elevenlabs_accepts_what_we_sign(body: bytes) -> None:
    """Its secret signs the time, a dot and the raw body; both refuse another body and another secret."""
    header = PROVIDERS["elevenlabs"].scheme.sign(SECRET, body, time.time())["ElevenLabs-Signature"]
    given = {"ElevenLabs-Signature": header}
    assert accepted_by_elevenlabs(body, header)
    assert ours("elevenlabs", given, body)
    assert not accepted_by_elevenlabs(flipped(body), header)
    assert not ours("elevenlabs", given, flipped(body))
    assert not accepted_by_elevenlabs(body, header, "another")
    assert not ours("elevenlabs", given, body, secret="another")


@pytest.mark.parametrize("ago", [0, 290, 310, 1790, 1810, 86400])
def test_elevenlabs_and_we_take_the_same_age(ago: int) -> None:
    """Half an hour, in which it makes its attempts."""
    header = PROVIDERS["elevenlabs"].scheme.sign(SECRET, b"{}", time.time() - ago)["ElevenLabs-Signature"]
    assert ours("elevenlabs", {"ElevenLabs-Signature": header}, b"{}") is accepted_by_elevenlabs(b"{}", header)


def test_a_time_ahead_is_refused_here_and_not_by_elevenlabs() -> None:
    """On purpose: what is dated a year ahead could be sent again for a year."""
    header = PROVIDERS["elevenlabs"].scheme.sign(SECRET, b"{}", time.time() + 31_536_000)["ElevenLabs-Signature"]
    assert accepted_by_elevenlabs(b"{}", header)
    assert not ours("elevenlabs", {"ElevenLabs-Signature": header}, b"{}")


# LiveKit.


@cache
def livekit() -> tuple[Any, Any]:
    return vendors.livekit()


LIVEKIT = LivekitScheme("the-api-key")
EVENT = b'{"event":"room_finished","id":"EV_1","room":{"sid":"RM_1","name":"caf\xc3\xa9"},"unknown":1}'


def livekit_token(body: bytes, *, key: str = "the-api-key", secret: str = SECRET) -> Any:
    tokens, _ = livekit()
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return tokens.AccessToken(key, secret).with_sha256(digest)


def accepted_by_livekit(body: bytes, token: str) -> bool:
    tokens, webhook = livekit()
    try:
        webhook.WebhookReceiver(tokens.TokenVerifier("the-api-key", SECRET)).receive(body.decode(), token)
    except Exception:  # noqa: BLE001  # it raises `Exception` itself
        return False
    return True


def test_livekit_and_we_accept_what_the_other_signs() -> None:
    """A token of the API secret, of the key's issuer, with the digest of the body."""
    token = livekit_token(EVENT).to_jwt()
    assert ours("livekit", {"Authorization": token}, EVENT, scheme=LIVEKIT)
    assert not ours("livekit", {"Authorization": token}, flipped(EVENT), scheme=LIVEKIT)
    made = LIVEKIT.sign(SECRET, EVENT, time.time())["Authorization"]
    assert accepted_by_livekit(EVENT, made)
    assert not accepted_by_livekit(EVENT + b" ", made)


@pytest.mark.parametrize(
    "token",
    [
        lambda: livekit_token(EVENT, key="another-key").to_jwt(),
        lambda: livekit_token(EVENT, secret="another-secret-of-more-than-thirty-two").to_jwt(),
        lambda: livekit_token(b"{}").to_jwt(),
        lambda: livekit_token(EVENT).with_sha256("").to_jwt(),
        lambda: livekit_token(EVENT).with_ttl(datetime.timedelta(seconds=-120)).to_jwt(),
        lambda: "no.token.atall",
    ],
    ids=["another issuer", "another secret", "another body", "no digest", "expired", "none"],
)
def test_what_livekit_refuses_is_refused(token: Any) -> None:
    """Issuer, secret, digest and end of the token are all looked at."""
    assert not accepted_by_livekit(EVENT, token())
    assert not ours("livekit", {"Authorization": token()}, EVENT, scheme=LIVEKIT)


def test_a_token_without_an_end_is_refused_as_livekit_refuses_it() -> None:
    """It would be valid for ever (livekit/protocol#1706)."""
    import jwt

    digest = base64.b64encode(hashlib.sha256(EVENT).digest()).decode()
    claims = {"iss": "the-api-key", "nbf": int(time.time()), "sha256": digest}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    assert not accepted_by_livekit(EVENT, token)
    assert not ours("livekit", {"Authorization": token}, EVENT, scheme=LIVEKIT)


# Telnyx: its SDK verifies, by PyNaCl; ours by `cryptography`.


def accepted_by_telnyx(body: bytes, headers: dict[str, str]) -> bool:
    module = telnyx()
    try:
        module.verify_webhook_signature(body, headers, configured_secret("telnyx"))
    except module.WebhookVerificationError:
        return False
    return True


@cache
def telnyx() -> Any:
    return vendors.module_of("telnyx", "telnyx/lib/webhook_verification")


@each_body
def test_telnyx_accepts_what_we_sign(body: bytes) -> None:
    """Ed25519 over the time, a bar and the body."""
    headers = PROVIDERS["telnyx"].scheme.sign(signing_secret("telnyx"), body, time.time())
    assert accepted_by_telnyx(body, headers)
    assert ours("telnyx", headers, body)
    assert not accepted_by_telnyx(flipped(body), headers)
    assert not ours("telnyx", headers, flipped(body))


def test_what_pynacl_signs_for_telnyx_is_accepted() -> None:
    """By another library than ours, as the provider would."""
    from nacl.signing import SigningKey

    key = SigningKey(base64.b64decode(signing_secret("telnyx")))
    at = str(int(time.time()))
    signature = key.sign(f"{at}|".encode() + BODIES[1]).signature
    headers = {"telnyx-signature-ed25519": base64.b64encode(signature).decode(), "telnyx-timestamp": at}
    assert ours("telnyx", headers, BODIES[1])
    assert accepted_by_telnyx(BODIES[1], headers)


@pytest.mark.parametrize("off", [-310, -290, 290, 310])
def test_telnyx_and_we_have_the_same_tolerance(off: int) -> None:
    """Five minutes, in both directions."""
    headers = PROVIDERS["telnyx"].scheme.sign(signing_secret("telnyx"), b"{}", time.time() + off)
    assert ours("telnyx", headers, b"{}") is accepted_by_telnyx(b"{}", headers)


# Twilio.


@cache
def twilio() -> Any:
    return vendors.module_of("twilio", "twilio/request_validator").RequestValidator(SECRET)


FORMS = [
    {"CallSid": ["CA1"], "CallStatus": ["completed"]},
    {"CallSid": ["CA1"], "Empty": [""], "From": ["+15550100"], "a": ["é & ="], "B": ["1"]},
    {"MediaUrl": ["https://x/2", "https://x/1", "https://x/2"], "z": ["1"]},
    {},
]
URLS = [
    "https://hooks.example.com/webhooks/twilio",
    "https://hooks.example.com:443/webhooks/twilio?a=1&b=%20",
    "https://hooks.example.com:8443/webhooks/twilio",
    "http://hooks.example.com/webhooks/twilio?",
]


@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("form", FORMS, ids=["plain", "blank and accents", "repeated", "empty"])
def test_twilio_and_we_agree_about_forms(form: dict[str, list[str]], url: str, algorithm: str) -> None:
    """The address, with the port or without, and the sorted fields, each value once."""
    body = urlencode(form, doseq=True).encode()
    fields = MultiDict((name, value) for name, values in form.items() for value in values)
    settings = (
        {} if algorithm == "HMAC_SHA1" else {"X-Twilio-Webhooks-Signature-Settings": f"key=k,algorithm={algorithm}"}
    )
    for signed_as in {url, url.replace(":443", ""), url.replace(".com/", ".com:443/") if "https" in url else url}:
        signature = twilio().compute_signature(signed_as, fields, algorithm)
        theirs = twilio().validate(url, fields, signature, algorithm)
        assert ours("twilio", {"X-Twilio-Signature": signature, **settings}, body, url=url) or not theirs
    assert not ours("twilio", {"X-Twilio-Signature": signature, **settings}, body + b"&x=1", url=url)
    if algorithm == "HMAC_SHA1":
        made = PROVIDERS["twilio"].scheme.sign(SECRET, body, 0, url)["X-Twilio-Signature"]
        assert twilio().validate(url, fields, made) or url.endswith("?")  # the SDK leaves a bare `?` out


def test_twilio_and_we_agree_about_json() -> None:
    """A body that is no form is signed by its digest in the address."""
    body = BODIES[1]
    url = f"https://hooks.example.com/webhooks/twilio?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = twilio().compute_signature(url, {})
    headers = {"X-Twilio-Signature": signature, "Content-Type": "application/json; charset=utf-8"}
    assert twilio().validate(url, body.decode(), signature)
    assert ours("twilio", headers, body, url=url)
    assert not twilio().validate(url, flipped(body).decode(), signature)
    assert not ours("twilio", headers, flipped(body), url=url)


def test_the_example_of_twilio_is_accepted() -> None:
    """The vector of its documentation ("Validating requests")."""
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    body = "&".join(f"{name}={quote(value)}" for name, value in form.items()).encode()
    assert parse_qs(body.decode())["From"] == ["+14158675309"]
    headers = {"X-Twilio-Signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="}
    assert twilio().__class__("12345").validate(url, form, headers["X-Twilio-Signature"])
    assert ours("twilio", headers, body, secret="12345", url=url)

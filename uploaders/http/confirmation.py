"""Whether the response to a delivery confirms it: one rule set for endpoints, upload addresses and the probe. Pure.

A response is read as tolerantly as a post: with a byte order mark, a Content-Encoding that nobody asked for, another
charset, a guard against script inclusion before the JSON, at any depth of nesting, and whatever its content type says.
Then a failure is recognized in the dialects in which services report one with a 2xx:

    {"success": false}  {"ok": false}  {"status": "error", "message": ..}  {"status": 500, "title": ..}   (RFC 9457)
    {"errorMessage": .., "errorType": ..}            a function that failed behind an API gateway
    {"statusCode": 500, "body": ".."}                a function's own response, which its gateway passed on as a body
    {"errors": [..]}  {"error": ".."}                without a success beside it

`delivered_when` of a destination replaces the dialects by rules of its own.
"""

import binascii
import codecs
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import msgspec
import zstandard

from uploaders.http.options import Rule

DECODED_LIMIT_BYTES = 256 * 1024
"""No more than this is decompressed of a response."""


class Answer(msgspec.Struct, frozen=True):
    """A response, as far as it is looked at. `body` is its beginning."""

    status: int
    body: bytes
    retry_after: str | None = None
    location: str | None = None
    content_type: str | None = None
    """Without its parameters, in lower case."""
    whole: bool = True
    """False where there was more of the body than its beginning."""
    charset: str | None = None
    content_encoding: str | None = None
    tail: bytes = b""
    """The end of a body of which not everything is in `body`."""


class Verdict(Enum):
    """What a response with a 2xx says."""

    CONFIRMED = auto()
    """The delivery succeeded."""
    FAILED = auto()
    """It did not, by its own words."""
    WEB_PAGE = auto()
    """It is a web page, for example of a login or a proxy: nothing of ours was there to respond."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a response says: its verdict, and why where it does not confirm."""

    verdict: Verdict
    reason: str = ""
    wrapped: Answer | None = None
    """The response of a function, where a gateway passed on all of it as a body: that one counts."""


_CONFIRMED = Reading(Verdict.CONFIRMED)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Members = Mapping[str, bytes]
_GUARD = re.compile(r"\s*(?:\)\]\}'?,?|while\s*\(1\);|for\s*\(;;\);|\{\}\s*&&)\s*")
"""What stands before JSON so that no page can include it as a script."""
_WEB_PAGE = re.compile(r"(?:\s|<\?xml[^>]{0,256}>|<!--.{0,4096}?-->)*<(!doctype\s+html|html|head|body)\b", re.I | re.S)
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+|"', re.DOTALL)
_FAILED_AT_END = re.compile(
    rb'[}\],]\s*"(?:success|ok)"\s*:\s*(?:false|"false"|0)\s*(?:,\s*"[^"]*"\s*:\s*(?:"[^"]*"|[\w.+-]+)\s*)*\}\s*$'
)
"""The last members of an object, behind something nested."""
_NO = frozenset({"false", "0", "no", "fail", "failed", "failure", "error"})
_YES = frozenset({"true", "1", "yes", "ok", "success"})


def read(answer: Answer, rules: Sequence[Rule] = ()) -> Reading:
    """What a response with a 2xx says; with `rules`, these decide and not the dialects."""
    if not rules and _says_success(answer):
        return _CONFIRMED
    text = text_of(answer)
    members, is_json = _parsed(text.encode(errors="replace"))
    if members is None and (_WEB_PAGE.match(text) or (answer.content_type == "text/html" and text.startswith("<"))):
        return Reading(Verdict.WEB_PAGE)
    if rules:
        return _by_rules(answer, members or {}, rules)
    status = _status_code(members) if members and answer.whole else None
    if members is not None and status is not None:
        return Reading(Verdict.FAILED, "the body is another response", _unwrapped(status, members))
    claims_json = answer.content_type is not None and answer.content_type.endswith("json")
    reason = ""
    if (members and _failure(members)) or _FAILED_AT_END.search(answer.tail):
        reason = "the body reports a failure"
    elif answer.whole and claims_json and text and not is_json:
        reason = "the body is not valid JSON although its content type says so"
    return Reading(Verdict.FAILED, reason) if reason else _CONFIRMED


def text_of(answer: Answer) -> str:
    """The beginning of a response's body as text: decompressed, decoded, without byte order mark, guard and blanks."""
    body = _decompressed(answer)
    try:
        text = body.decode(_charset(answer, body), errors="replace")
    except (LookupError, ValueError):  # no such charset, or one that is not of texts: JSON is in UTF-8
        text = body.decode(errors="replace")
    text = text.removeprefix("\ufeff")
    guard = _GUARD.match(text)
    return (text[guard.end() :] if guard else text).strip()


class _Signals(msgspec.Struct):
    """What decides most responses."""

    success: bool | None = None
    statusCode: msgspec.Raw = msgspec.Raw()  # noqa: N815  # its name in JSON


_SIGNALS = msgspec.json.Decoder(_Signals)


def _says_success(answer: Answer) -> bool:
    """Whether it plainly says `"success": true`, as nearly every response does: this takes a microsecond."""
    if not (answer.whole and answer.body.startswith(b"{")) or answer.content_encoding is not None:
        return False
    try:
        signals = _SIGNALS.decode(answer.body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return signals.success is True and not bytes(signals.statusCode)


def text_members(text: str) -> dict[str, str]:
    """The members of a JSON object whose values are texts; of anything else none."""
    members, _ = _parsed(text.encode(errors="replace"))
    return {name: _text(raw) for name, raw in (members or {}).items() if raw.startswith(b'"')}


# Decoding -----------------------------------------------------------------------------------------------------------


def _decompressed(answer: Answer) -> bytes:
    """As far as it goes: a response that is cut off, or of an unknown encoding, is taken as it is."""
    body, named = answer.body, answer.content_encoding or ""
    try:
        if body.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(body, DECODED_LIMIT_BYTES)
        if body.startswith(b"\x28\xb5\x2f\xfd"):
            return zstandard.ZstdDecompressor().stream_reader(body).read(DECODED_LIMIT_BYTES)
        if named == "deflate":
            bits = 15 if body[:1] and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0 else -15
            return zlib.decompressobj(bits).decompress(body, DECODED_LIMIT_BYTES)
    except (zlib.error, zstandard.ZstdError):
        return body
    return body


_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _charset(answer: Answer, body: bytes) -> str:
    """By the byte order mark, else as the content type says, else by where the zeros of an ASCII character stand."""
    for mark, name in _MARKS:
        if body.startswith(mark):
            return name
    if answer.charset:
        return answer.charset
    if len(body) > 1 and 0 in body[:2]:
        return "utf-16-le" if body[1] == 0 else "utf-16-be"
    return "utf-8"


def _parsed(text: bytes) -> tuple[dict[str, bytes] | None, bool]:
    """The members of a JSON object, None for anything else; and whether it is JSON, as far as can be seen."""
    try:
        return {name: bytes(raw) for name, raw in _MEMBERS.decode(text).items()}, True
    except msgspec.ValidationError:
        return None, True
    except (msgspec.DecodeError, RecursionError):
        # Nested too deeply for the parser, with NaN in it, or not JSON: the scanner reads what it can.
        return scan(text) or (None, False)


def scan(text: bytes) -> tuple[dict[str, bytes], bool] | None:
    """The members of the JSON object that `text` begins with, up to where it ends or is cut off; and whether it ends.

    Without recursion, and without looking into what is nested. None: it does not begin with an object.
    """
    if not text.startswith(b"{"):
        return None
    members: dict[str, bytes] = {}
    depth, key, start = 0, "", -1
    for token in _TOKEN.finditer(text):
        first = token[0][:1]
        if depth == 1 and first in b",}":
            if start >= 0:
                members[key] = text[start : token.start()].strip()
            key, start = "", -1
        elif depth == 1 and first == b":":
            start = token.end()
        elif depth == 1 and first == b'"' and start < 0:
            key = _text(token[0])
        depth += (first in b"{[") - (first in b"}]")
        if depth == 0 or token[0] == b'"':  # the end, or a text that is cut off
            break
    return members, depth == 0


def _text(token: bytes) -> str:
    try:
        return str(msgspec.json.decode(token, type=str))
    except msgspec.DecodeError:
        return token.decode(errors="replace").strip('"')


# Dialects -----------------------------------------------------------------------------------------------------------


def _failure(members: _Members) -> bool:
    """Whether these members report a failure. A success beside an error counts as success."""
    for name in ("success", "ok"):
        word = _word(members.get(name))
        if word in _NO:
            return True
        if word in _YES:
            return False
    if _is_set(members.get("errorMessage")) or _is_set(members.get("errors")) or _is_set(members.get("error")):
        return True
    status = _word(members.get("status"))
    if status in {"error", "fail"}:
        return "message" in members or "data" in members
    return status is not None and status.isdecimal() and 400 <= int(status[:4]) < 600


def _status_code(members: _Members) -> int | None:
    """The status of a function's own response."""
    word = _word(members.get("statusCode"))
    if word is None or not word.isdecimal() or not 100 <= int(word[:4]) < 600:
        return None
    return int(word)


_OF_A_FUNCTION = frozenset({"statusCode", "body", "headers", "multiValueHeaders", "isBase64Encoded"})


def _unwrapped(status: int, members: _Members) -> Answer:
    """A function's own response: its body is a text, which holds JSON, maybe in base64; or JSON; or missing."""
    raw = members.get("body", b"")
    body = _text(raw).encode() if raw.startswith(b'"') else raw
    if _word(members.get("isBase64Encoded")) in _YES:
        with suppress(binascii.Error):
            body = binascii.a2b_base64(body, strict_mode=True)
    if not body or body == b"null":
        rest = {name: value for name, value in members.items() if name not in _OF_A_FUNCTION}
        body = b"{" + b",".join(msgspec.json.encode(name) + b":" + value for name, value in rest.items()) + b"}"
    headers = {name.lower(): _text(value) for name, value in _inside(members.get("headers", b"")).items()}
    content_type = "application/json" if body[:1] == b"{" else None
    return Answer(status, body, headers.get("retry-after"), headers.get("location"), content_type)


def _word(raw: bytes | None) -> str | None:
    """A scalar as a word in lower case: `false`, `"false"` and `"False"` are the same."""
    return None if raw is None else raw.decode(errors="replace").strip().strip('"').strip().lower()


def _is_set(raw: bytes | None) -> bool:
    """Whether a member holds something: neither null, false, zero, nor anything empty."""
    return raw is not None and re.sub(rb"\s", b"", raw) not in {b"null", b"false", b"0", b'""', b"[]", b"{}"}


# Rules of a destination ---------------------------------------------------------------------------------------------


def _holds(rule: Rule, members: _Members) -> bool:
    found = _at(members, rule.path)
    met = _is_set(found) if rule.value is None else found is not None and _canonical(found) == rule.value
    return met is not rule.negated


def _by_rules(answer: Answer, members: _Members, rules: Sequence[Rule]) -> Reading:
    if not answer.whole:
        return Reading(Verdict.FAILED, "the body is too long for delivered_when: only its beginning is read")
    failed = next((rule for rule in rules if not _holds(rule, members)), None)
    return _CONFIRMED if failed is None else Reading(Verdict.FAILED, f"delivered_when: {failed.text} does not hold")


def _at(members: _Members, path: Sequence[str]) -> bytes | None:
    """What a pointer leads to."""
    found: bytes | None = None
    inside: _Members = members
    for part in path:
        found = inside.get(part)
        if found is None:
            return None
        inside = _elements(found) if found.startswith(b"[") else _inside(found)
    return found


def _inside(found: bytes) -> _Members:
    """The members of an object; of anything else none."""
    return (scan(found) or ({}, False))[0]


def _elements(array: bytes) -> dict[str, bytes]:
    """The elements of an array by their numbers."""
    try:
        return {str(index): bytes(raw) for index, raw in enumerate(msgspec.json.decode(array, type=list[msgspec.Raw]))}
    except (msgspec.DecodeError, RecursionError):
        return {}


def _canonical(raw: bytes) -> bytes:
    try:
        return msgspec.json.encode(msgspec.json.decode(raw))
    except (msgspec.DecodeError, RecursionError):
        return raw

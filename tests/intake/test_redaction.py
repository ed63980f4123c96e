"""Redaction of call logs: what is stored of them holds nothing that the rules find, whichever way they came in."""

import asyncio
import base64
import gzip
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calllog.toplevel import scan
from gateway.intake.accept import Redactions
from gateway.intake.parse import CallLog
from gateway.intake.redaction import Redactor
from gateway.operations.schemas import Document, ImportHeader
from gateway.operations.selection import Accepts
from gateway.operations.transfer import DeadLetterImporter
from gateway.tenants import Tenant, TenantTable, digest_of
from spool.payload.frames import encode
from spool.records import Form, Fragment
from tests.intake.running_intake import RunningIntake, running
from uploaders.redaction.finders import matches_anywhere
from uploaders.redaction.options import Detector, Redaction

CARD = "4111 1111 1111 1111"
RULES = Redaction((Detector.CARD, Detector.IBAN, Detector.EMAIL, Detector.PHONE), (), ("customer.born", "**.secret"))
SPOKEN_OF = {"call_id": "c1", "wcall_event": "call_ended", "transcript_json": [{"role": "user", "content": CARD}]}


def redacted(document: bytes, rules: Redaction = RULES) -> tuple[bytes, Mapping[str, int]]:
    text, counts = Redactor(rules).redact(scan(document), bytearray)
    return bytes(text), counts


@pytest.mark.parametrize(
    ("given", "then"),
    [
        (rb'{"a":"4111 1111 1111 1111"}', rb'{"a":"[card]"}'),
        (rb'{"a":"\u0034111 1111\u00201111 1112\/x"}', rb'{"a":"\u0034111 1111\u00201111 1112\/x"}'),
        (rb'{"a":"\u0034111 1111\u00201111 1111 \/x \ud83d\ude00 \ud800"}',
         rb'{"a":"[card] \/x \ud83d\ude00 \ud800"}'),
        (rb'{"a":4111111111111111,"b":-4111111111111111,"c":4111111111111111.5}',
         rb'{"a":"[card]","b":-4111111111111111,"c":4111111111111111.5}'),
        (rb'{"a":"1","a":"4111111111111111" , "n": 1.50e+3}', rb'{"a":"1","a":"[card]" , "n": 1.50e+3}'),
        (rb'{"a":"{\"b\": [\"x@y.org\", 4111111111111111], \"c\":\t1.0}"}',
         rb'{"a":"{\"b\": [\"[e-mail]\", \"[card]\"], \"c\":\t1.0}"}'),
        (rb'{"customer":{"born":[1,{"y":2}],"name":"A"},"born":1}',
         rb'{"customer":{"born":"[redacted]","name":"A"},"born":1}'),
        (rb'{"a":[{"secret":null},{"s":{"secret":1.50}}]}',
         rb'{"a":[{"secret":"[redacted]"},{"s":{"secret":"[redacted]"}}]}'),
        (rb'{"a":"{\"secret\":\"\u00e4\",\"b\":NaN}"}', rb'{"a":"{\"secret\":\"[redacted]\",\"b\":NaN}"}'),
        (rb'{"se\u0063ret":"x","secret ":"y"}', rb'{"se\u0063ret":"[redacted]","secret ":"y"}'),
        (rb'{"call_id":"+15551234567","agent_id":"4111111111111111","+15551234567":1}',
         rb'{"call_id":"+15551234567","agent_id":"4111111111111111","+15551234567":1}'),
    ],
)  # fmt: skip
def test_only_what_the_rules_find_is_replaced(given: bytes, then: bytes) -> None:
    """In texts with escapes, in JSON inside of texts, in whole numbers, at paths; every other byte stays as it came."""
    assert redacted(given)[0] == then
    again, counts = redacted(then)
    assert (again, counts) == (then, {})


_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=8),
        st.sampled_from([CARD, "a@b.cc", 4111111111111111, "x +4930123456 y", "\ud800", "\0", "[card]"]),
    ),
    lambda values: st.one_of(
        st.lists(values, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "secret", "customer", "born", "ä"]), values, max_size=3),
        values.map(json.dumps),
    ),
    max_leaves=12,
)  # fmt: skip


@given(_VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_redacting_a_document_twice_is_redacting_it_once(value: Any, indent: Any, ascii_only: bool) -> None:
    """What comes out is JSON of the same shape, with the same bytes wherever nothing was replaced."""
    document = json.dumps({"call_id": "c", "value": value}, indent=indent, ensure_ascii=ascii_only)
    data = document.encode("utf-8", "surrogatepass")
    try:
        top = scan(data)
    except ValueError:
        return  # half of a surrogate pair that was not escaped is no UTF-8
    once, _ = Redactor(RULES).redact(top, bytearray)
    twice, counts = Redactor(RULES).redact(scan(bytes(once)), bytearray)
    assert bytes(twice) == bytes(once)
    assert counts == {}
    edits = list(Redactor(RULES).edits(top))
    text, position, rest = memoryview(top.text), 0, bytes(once)
    for edit in edits:
        untouched = bytes(text[position : edit.start])
        assert rest.startswith(untouched + edit.made)
        rest = rest[len(untouched) + len(edit.made) :]
        position = edit.end
    assert rest == bytes(text[position:])


async def _stored(world: RunningIntake, call_id: str = "c1") -> bytes:
    record = (await world.only_record(call_id)).record
    return b"".join([await world.stored(record, fragment) for fragment in Fragment if fragment in record.fragments])


def _large(size: int) -> dict[str, Any]:
    turns = [{"user_transcript": f"{number} {CARD}", "agent_response": "x" * 900} for number in range(size // 1000)]
    return {**SPOKEN_OF, "transcript_with_metrics": turns}


@pytest.mark.parametrize("way", ["post", "batch", "upload", "envelope", "gzip", "3 MB", "10 MB", "nonfinite"])
async def test_nothing_that_the_rules_find_is_stored(tmp_path: Path, way: str) -> None:
    """Each way in, at each size: in a thread, in the parse worker, with summaries made of what is left."""
    async with running(tmp_path, redactions=Redactions(RULES)) as world:
        body = json.dumps(SPOKEN_OF).encode()
        match way:
            case "post":
                reply = await world.post(body)
            case "batch":
                reply = await world.post(body + b"\n", "/v1/calls/batch")
            case "upload":
                given = await world.post({"call_id": "c1", "content_type": "application/json"}, "/get-upload-url")
                reply = await world.ask("PUT", given.json["upload_url"], body)
                assert (await world.ask("PUT", given.json["upload_url"], body)).json["duplicate"]
            case "envelope":
                inner = base64.b64encode(gzip.compress(body)).decode()
                reply = await world.post({"compressed": True, "data": inner})
            case "gzip":
                reply = await world.post(gzip.compress(body), content_encoding="gzip")
            case "nonfinite":
                body = json.dumps({**_large(3_000_000), "x": float("nan")}).encode()
                reply = await world.post(body)
            case _:
                body = json.dumps(_large(3_000_000 if way == "3 MB" else 10_000_000)).encode()
                reply = await world.post(body)
        assert reply.status in {200, 202}, reply.raw
        stored = await _stored(world)
        assert CARD.encode() not in stored
        assert stored.count(b"[card]") >= body.count(CARD.encode()) or way == "envelope"
        assert b'"user_transcript": "7 [card]"' in stored or len(body) < 1000
        assert world.metrics.registry.get_sample_value("callspool_redacted_total", {"rule": "card"})


async def test_a_repeated_post_is_a_duplicate_of_what_was_stored(tmp_path: Path) -> None:
    """The digest is that of the redacted call log: the same post again is known."""
    async with running(tmp_path, redactions=Redactions(RULES)) as world:
        first = await world.post(SPOKEN_OF)
        again = await world.post(SPOKEN_OF)
        assert (first.json["duplicate"], again.json["duplicate"]) == (False, True)
        assert (await world.post(json.loads(json.dumps(SPOKEN_OF).replace(CARD, "[card]")))).json["duplicate"]


async def test_each_tenant_has_the_rules_that_are_its_own(tmp_path: Path) -> None:
    """By token or by agent; a tenant with rules of its own has those alone, one without has everybody's."""
    tenants = TenantTable([
        Tenant("strict", ("s-*",), frozenset({digest_of("strict-token-of-intake")})), Tenant("open", ("o-*",)),
        Tenant("plain", ("p-*",)),
    ])  # fmt: skip
    rules = Redactions(None, {None: Redaction((Detector.EMAIL,)), "strict": RULES, "open": None})
    said = {"call_id": "", "agent_id": "", "text": f"{CARD} a@b.cc"}
    async with running(tmp_path, redactions=rules, tenants=tenants, token="of-the-house") as world:
        for agent, token, expected in [
            ("s-1", "of-the-house", "[card] [e-mail]"), ("o-1", "of-the-house", f"{CARD} a@b.cc"),
            ("p-1", "of-the-house", f"{CARD} [e-mail]"), ("x", "of-the-house", f"{CARD} [e-mail]"),
            ("o-2", "strict-token-of-intake", "[card] [e-mail]"),
        ]:  # fmt: skip
            reply = await world.post({**said, "call_id": agent, "agent_id": agent}, headers={"x-pype-token": token})
            assert reply.status == 202, reply.raw
            assert json.loads(await _stored(world, agent))["text"] == expected
        headers = {"x-pype-token": "strict-token-of-intake"}
        wanted = {"call_id": "up", "content_type": "application/json"}
        given = await world.post(wanted, "/get-upload-url", headers=headers)
        document = {**said, "call_id": "up", "agent_id": "o-9", "token": "agents-own"}
        assert (await world.ask("PUT", given.json["upload_url"], json.dumps(document).encode())).status == 200
        record = (await world.only_record("up")).record
        assert (record.tenant, json.loads(await _stored(world, "up"))["text"]) == ("strict", "[card] [e-mail]")


async def test_what_was_not_redacted_as_its_tenant_has_it_is_not_stored(world: RunningIntake, tmp_path: Path) -> None:
    """A way in that forgets whose a call log is stores nothing, in place of storing it as it is."""
    async with running(tmp_path / "other", redactions=Redactions(RULES)) as redacting:
        with await _body(world, json.dumps(SPOKEN_OF).encode()) as body:
            parsed = await world.intake.acceptor.parse(body)
            assert isinstance(parsed, CallLog)
            with pytest.raises(RuntimeError, match="not redacted"):
                await redacting.intake.acceptor.accept(parsed)
        assert await redacting.spool.trace("c1") == ()


async def _body(world: RunningIntake, data: bytes) -> Any:
    async def pieces() -> Any:
        yield data

    return await world.intake.reader.read_stream(pieces())


@pytest.mark.parametrize("size", [0, 1_000_000], ids=["in a thread", "in the parse worker"])
async def test_what_is_imported_is_redacted(tmp_path: Path, size: int) -> None:
    """Dead letters that were exported before there were rules are stored as the rules have it, in every form."""
    detail = b'{"call_id": "c1", "update_type": "detailed_telemetry", "said": "%b", "x": "%b"}'
    documents = {
        Form.CORE: json.dumps({**SPOKEN_OF, "call_id": "c1"}).encode(),
        Form.DETAIL: detail % (CARD.encode(), b"y" * size),
    }
    async with running(tmp_path, redactions=Redactions(RULES)) as world:
        takes = {"endpoint": Accepts(frozenset(Form), ordered=True)}
        importer = DeadLetterImporter(world.spool, world.intake.staging, takes, world.intake.acceptor)
        packed = {form: encode(document) for form, document in documents.items()}
        header = ImportHeader(
            to="endpoint", record_id="gone-1", call_id="c1", agent_id=None, event="call_ended", environment=None,
            documents=tuple(
                Document(form=form, bytes=len(data), sha256=sha256(data).hexdigest()) for form, data in packed.items()
            ),
        )  # fmt: skip
        source = asyncio.StreamReader()
        source.feed_data(b"".join(packed.values()))
        source.feed_eof()
        assert not (await importer.import_record(header, source)).duplicate  # type: ignore[arg-type]  # of aiohttp
        stored = await _stored(world)
        assert CARD.encode() not in stored
        assert b"[card]" in stored
        assert b"y" * size in stored
        await world.until(lambda: not world.staged_files())


OWN = (
    "ORD-[0-9]{2}", r"(?i)\bord\b", "a.b", "o[^z]*z", r"\BX", "(?:x*|ab)+?b", r"[0-9]{3}", "é+", "[^a]c", r"a\sb",
    r"\pN\pL", "x??y", "^ORD", "b$", r"\AO", "(?s)a.*b", r"x|\b[^a]",
)  # fmt: skip
"""Greedy ones that would run across many texts, classes that take anything, and what means something at an edge."""
_PIECES = ("ORD-12", "ord", "a", "b", "z", "X", "x", "y", "é", "\ud800", "\n", " ", "4111111111111111", "[card]", "a b",
           "o", '"', "\\", "{", "[1]", "c", "1234567890", "\u0661", "x@y.org")  # fmt: skip
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=6).map("".join)
_NESTED = st.dictionaries(_TEXTS, _TEXTS | st.integers(0, 10**12), max_size=2).map(json.dumps)
_VALUES = st.recursive(
    _TEXTS | _NESTED | _NESTED.map(lambda text: json.dumps({"more": text})) | st.integers(0, 10**18),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4), max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(_TEXTS.filter(bool), _VALUES, max_size=4),
    st.lists(st.sampled_from(OWN), min_size=1, max_size=3, unique=True),
    st.booleans(), st.booleans(), st.booleans(), st.sampled_from([8, 64, 1 << 20]),
)  # fmt: skip
def test_many_texts_at_once_are_redacted_as_each_alone(
    document: dict[str, Any], own: list[str], ascii_only: bool, detect: bool, fields: bool, window: int
) -> None:
    """Byte for byte, whatever the patterns match across texts, and wherever what is looked at together ends."""
    named = tuple((f"own{number}", each) for number, each in enumerate(own))
    detectors = (Detector.CARD, Detector.EMAIL) if detect else ()
    rules = Redaction(detectors, named, ("**.a", "ord.*") if fields else ())
    text = json.dumps({"call_id": "c", **document}, ensure_ascii=ascii_only).encode(errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uploaders.redaction.finders._WINDOW_BYTES", window)
        together = redacted(text, rules)
        patch.setattr("gateway.intake.redaction.matches_anywhere", lambda _: False)
        assert together == redacted(text, rules)


@pytest.mark.parametrize(
    ("expression", "anywhere"),
    [
        ("ORD-[0-9]", True), ("[^a]", True), ("[]^$]", True), (r"\^\$", True), (r"\bx\B", True), ("[[:alpha:]^]", True),
        ("^x", False), ("x$", False), (r"\Ax", False), (r"x\z", False), (r"\Q[\E^", False), (r"[a]^|x", False),
        (r"[[]^x]", False), ("(?m)^x", False), (r"\C", False),
    ],
)  # fmt: skip
def test_a_pattern_that_names_the_edge_of_a_text_is_matched_with_each_alone(expression: str, anywhere: bool) -> None:
    """`^` means the beginning of a text, not that of a document."""
    assert matches_anywhere(expression) is anywhere

"""Object keys: harmless, short enough, and never the same for two objects."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool.records import Form
from tests.uploaders.deliveries import a_delivery, a_record
from uploaders.s3.options import DEFAULT_TEMPLATE, LONGEST_KEY_BYTES, KeyTemplate

HOSTILE = (
    "",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "\x00\n",
    "ü" * 500,
    "x" * 5000,
    "\ud800",
    "{call_id}",
    "%2F",
)
ids = st.sampled_from(HOSTILE) | st.text(max_size=200) | st.from_regex(r"[0-9a-f]{8}-[0-9]{1,3}", fullmatch=True)
uids = st.from_regex(r"[0-9a-f]{8}-[1-9][0-9]{0,3}", fullmatch=True)
templates = st.sampled_from(
    [
        DEFAULT_TEMPLATE,
        "{record_id}",
        "{record_id}/{agent_id}",
        "{agent_id}/{date}/{call_id}{record_id}",
        "{agent_id}-{call_id}-{event}-{record_id}x9",
    ]
)


def key_of(
    template: str, form: Form = Form.DETAIL, encoding: str | None = "zstd", prefix: str = "", **fields: Any
) -> str:
    return KeyTemplate(prefix, template).key(a_delivery(a_record(**fields), form), form, encoding)


@pytest.mark.parametrize(
    ("form", "encoding", "ending"),
    [
        (Form.DETAIL, "zstd", ".detail.json.zst"),
        (Form.DETAIL, "gzip", ".detail.json.gz"),
        (Form.CORE, None, ".core.json"),
        (Form.WHOLE, None, ".json"),
        (Form.WHOLE, "zstd", ".json.zst"),
    ],
)
def test_the_default_key_reads_like_a_path_and_ends_as_its_content(
    form: Form, encoding: str | None, ending: str
) -> None:
    """Harmless ids stay as they are; the ending tells form and encoding."""
    key = key_of(DEFAULT_TEMPLATE, form, encoding, prefix="calls/", call_id="call-7", uid="1f2e3d4c-12")
    assert key == f"calls/2025-06-15/call-7/call_ended-1f2e3d4c-12{ending}"


@given(template=templates, one=st.tuples(uids, ids, ids, ids), other=st.tuples(uids, ids, ids, ids))
def test_different_records_have_different_keys_whatever_agents_call_their_calls(
    template: str, one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    """Even ids made to look like another record's lead to another key."""
    first, second = (
        key_of(template, uid=uid, call_id=call_id, agent_id=agent_id, event=event)
        for uid, call_id, agent_id, event in (one, other)
    )
    assert (first == second) == (one == other) or one[0] == other[0]


@given(template=templates, call_id=ids, agent_id=st.none() | ids, event=ids)
def test_every_key_is_harmless_and_short_enough(template: str, call_id: str, agent_id: str | None, event: str) -> None:
    """At most 1024 bytes of plain characters, in the folders that the template has and no others."""
    key = key_of(template, prefix="prefix/", call_id=call_id, agent_id=agent_id, event=event)
    assert len(key.encode()) <= LONGEST_KEY_BYTES
    assert re.fullmatch(r"[A-Za-z0-9_~./-]+", key)
    assert key.count("/") == template.count("/") + 1
    assert not {"", ".", ".."} & set(key.split("/"))


@pytest.mark.parametrize(
    ("prefix", "template", "message"),
    [
        ("", "{date}/{call_id}", "record_id"),
        ("", "{record_id}{call_id}", "last variable"),
        ("", "{record_id}-{who}", "no braces but"),
        ("", "{record_id}/{", "no braces but"),
        ("", "x}/{record_id}", "no braces but"),
        ("", "a//{record_id}", "empty folder"),
        ("/", "{record_id}", "empty folder"),
        ("a/../", "{record_id}", r"`\.\.`"),
        ("a\n/", "{record_id}", "visible"),
        ("p" * 1000, "{call_id}/{record_id}", "longer"),
    ],
)
def test_a_template_that_could_not_work_says_why(prefix: str, template: str, message: str) -> None:
    """What would lose or misplace an object is found before the first one is sent."""
    with pytest.raises(ValueError, match=message):
        KeyTemplate(prefix, template)

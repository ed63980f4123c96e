"""The agent's token is cut out of what is stored, and nothing else is."""

import pytest

from gateway.calllog.document import parse
from tests.calllog.joined_documents import body


@pytest.mark.parametrize(
    ("posted", "without", "token"),
    [
        ('{"call_id": 1, "token": "x"}', '{"call_id": 1}', "x"),
        ('{"token": "x", "call_id": 1}', '{"call_id": 1}', "x"),
        ('{"call_id": 1, "token": "x", "b": 2}', '{"call_id": 1, "b": 2}', "x"),
        ('{"call_id":1,"token":"x","b":2}', '{"call_id":1,"b":2}', "x"),
        ('{\n  "call_id": 1,\n  "token": "x"\n}', '{\n  "call_id": 1\n}', "x"),
        ('{\n  "token": "x" ,\n  "call_id": 1\n}', '{\n  "call_id": 1\n}', "x"),
        ('{"token":"x","token":"y","call_id":3}', '{"call_id":3}', "y"),
        ('{"token":1,"call_id":3,"token":2,"token":"y"}', '{"call_id":3}', "y"),
        ('{"call_id":3,"tok\\u0065n":"secret"}', '{"call_id":3}', "secret"),
        ('{"call_id":3,"a":{"token":"x"}}', '{"call_id":3,"a":{"token":"x"}}', None),
        ('{"call_id":3,"Token":"x"}', '{"call_id":3,"Token":"x"}', None),
        ('{"call_id":3,"a":NaN,"token":"x"}', '{"call_id":3,"a":null}', "x"),
    ],
)
def test_token_is_cut_out_with_one_separator(posted: str, without: str, token: str | None) -> None:
    """Only top-level members named token go, each with one comma and the whitespace beside it."""
    call_log = parse(posted.encode())
    assert body(call_log) == without.encode()
    assert call_log.token == token
    assert "token" not in call_log.members
    assert not call_log.stray_token


NO_CREDENTIALS = [
    "{}", '{"token":"x"}', "[]", '["x"]', "17", "-1.5e3", "true", "false",
    '"a\\nb"', '"a\\r\\n"', '"a\\n"', '" a"', '"a "', '" "', '"\\u0000"', '"\\u007f"', '"\\ud800"',
    '"\\u2028"', f'"{"x" * 8191}"',
]  # fmt: skip


@pytest.mark.parametrize("value", NO_CREDENTIALS)
@pytest.mark.parametrize(
    "posted", ['{"call_id":3,"token":%s}', '{"token":"x","call_id":3,"token":%s}', '{"token": %s ,"call_id":3}']
)
def test_what_is_no_credential_stays_where_it_is(posted: str, value: str) -> None:
    """A token of another type, or that no header could carry, is content: kept to the byte, told, and never a key."""
    text = posted % value
    call_log = parse(text.encode())
    assert body(call_log) == text.encode()
    assert (call_log.token, call_log.stray_token) == (None, True)
    assert "token" in call_log.members


@pytest.mark.parametrize("value", ["null", '""'])
def test_an_empty_token_stays_and_is_not_told(value: str) -> None:
    """It says nothing, so nothing is missing."""
    text = f'{{"call_id":3,"token":{value}}}'
    call_log = parse(text.encode())
    assert (body(call_log), call_log.token, call_log.stray_token) == (text.encode(), None, False)


def test_the_token_is_not_shown() -> None:
    """What is shown of a call log in a log line or a traceback holds neither the token nor the body."""
    assert "s3cret" not in repr(parse(b'{"call_id": 1, "token": "s3cret"}'))
    assert "s3cret" not in repr(parse(b'{"call_id": 1, "customer_name": "s3cret"}'))

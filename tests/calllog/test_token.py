"""The agent's token is cut out of what is stored, and nothing else is."""

import pytest

from gateway.calllog.document import parse
from tests.calllog.joining import body


@pytest.mark.parametrize(
    ("posted", "without", "token"),
    [
        ('{"call_id": 1, "token": "x"}', '{"call_id": 1}', "x"),
        ('{"token": "x", "call_id": 1}', '{"call_id": 1}', "x"),
        ('{"call_id": 1, "token": "x", "b": 2}', '{"call_id": 1, "b": 2}', "x"),
        ('{"call_id":1,"token":"x","b":2}', '{"call_id":1,"b":2}', "x"),
        ('{\n  "call_id": 1,\n  "token": "x"\n}', '{\n  "call_id": 1\n}', "x"),
        ('{\n  "token": "x" ,\n  "call_id": 1\n}', '{\n  "call_id": 1\n}', "x"),
        ('{"token":1,"token":2,"call_id":3}', '{"call_id":3}', "2"),
        ('{"token":1,"call_id":3,"token":2,"token":"y"}', '{"call_id":3}', "y"),
        ('{"call_id":3,"tok\\u0065n":"secret"}', '{"call_id":3}', "secret"),
        ('{"call_id":3,"token":"a\\nb"}', '{"call_id":3}', "a\nb"),
        ('{"call_id":3,"token":-1.5e3}', '{"call_id":3}', "-1.5e3"),
        ('{"call_id":3,"token":""}', '{"call_id":3}', None),
        ('{"call_id":3,"token":null}', '{"call_id":3}', None),
        ('{"call_id":3,"token":true}', '{"call_id":3}', None),
        ('{"call_id":3,"token":{"token":"x"}}', '{"call_id":3}', None),
        ('{"call_id":3,"token":["x"]}', '{"call_id":3}', None),
        ('{"call_id":3,"token":"\\ud800"}', '{"call_id":3}', None),
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


def test_the_token_is_not_shown() -> None:
    """What is shown of a call log in a log line or a traceback holds neither the token nor the body."""
    assert "s3cret" not in repr(parse(b'{"call_id": 1, "token": "s3cret"}'))
    assert "s3cret" not in repr(parse(b'{"call_id": 1, "customer_name": "s3cret"}'))

"""Tests of logging: one line a message, from us and from libraries, without secrets."""

import io
import json
import logging
import re
import time

import pytest
import structlog

from gateway.logs import configure_logging
from uploaders.redact import redact


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


pytestmark = pytest.mark.usefixtures("restored_logging")


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_messages_and_those_of_libraries_are_json_lines_of_one_shape() -> None:
    """Every message is one JSON object with event, level, logger and a UTC time."""
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    structlog.get_logger("callspool.x").info("started", port=7717)
    logging.getLogger("aiohttp.server").error("Error handling %s", "request")
    ours, theirs = lines(stream)
    assert (ours["event"], ours["port"], ours["logger"], ours["level"]) == ("started", 7717, "callspool.x", "info")
    assert (theirs["event"], theirs["logger"]) == ("Error handling request", "aiohttp.server")
    for line in (ours, theirs):
        assert list(line)[:3] == ["timestamp", "level", "event"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(line["timestamp"]))


def test_at_a_terminal_messages_are_coloured_text() -> None:
    """People see text, in colour."""
    stream = Terminal()
    configure_logging("info", stream=stream)
    structlog.get_logger("x").info("started", port=7717)
    assert "\x1b[" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(("as_text", "stream"), [(True, io.StringIO()), (False, Terminal())])
def test_the_style_can_be_chosen(as_text: bool, stream: io.StringIO) -> None:
    """What is configured wins over what the stream is."""
    configure_logging("info", as_text=as_text, stream=stream)
    structlog.get_logger("x").info("started")
    assert stream.getvalue().startswith("{") is not as_text
    assert "\x1b[" not in stream.getvalue()


def test_messages_below_the_level_are_not_written() -> None:
    """Only messages of the level and above are written, and no access log of the web server."""
    stream = io.StringIO()
    configure_logging("warning", as_text=False, stream=stream)
    structlog.get_logger("x").info("unimportant")
    logging.getLogger("aiohttp.access").info("GET /")
    structlog.get_logger("x").warning("important")
    assert [line["event"] for line in lines(stream)] == ["important"]


def test_configuring_again_replaces_what_was_set() -> None:
    """No message is written twice."""
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", as_text=False, stream=first)
    configure_logging("info", as_text=False, stream=second)
    structlog.get_logger("x").info("once")
    assert (first.getvalue(), len(lines(second))) == ("", 1)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_secret_is_in_no_message_wherever_it_stands(as_text: bool) -> None:
    """Keys, nested headers, addresses, texts, arguments and tracebacks are masked in both styles."""
    stream = io.StringIO()
    configure_logging("info", as_text=as_text, stream=stream)
    log = structlog.get_logger("x")
    log.info("a", token="hush1", headers={"X-Pype-Token": "hush2", "authorization": "Bearer hush3hush3"})
    log.info(
        "b", url="https://user:hush4@host/x?sig=hush5&X-Amz-Signature=hush6", given=["token=hush7"], raw=b"token=hushB"
    )
    log.info("c", error=ValueError("x-pype-token: hush8"))
    logging.getLogger("y").error("posting %s failed", "https://host/?access_token=hush9")
    try:
        raise ValueError('{"token": "hushA"}')
    except ValueError:
        log.exception("d")
    assert len(stream.getvalue().splitlines()) >= 5
    assert "hush" not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer ***"),
        ("Authorization: abcdefghijk", "Authorization: ***"),
        ("token=abc, next", "token=***, next"),
        ('{"token":"a b","x":1}', '{"token":"***","x":1}'),
        (r'{"body":"{\"token\":\"abc\",\"x\":1}"}', r'{"body":"{\"token\":\"***\",\"x\":1}"}'),
        ('{"secret_access_key": "abc', '{"secret_access_key": "***'),
        ("total_tokens: 17, token_id=3, token2=abc", "total_tokens: 17, token_id=3, token2=***"),
        ("https://u:p@h/x?key=1&page=2", "https://***@h/x?key=***&page=2"),
        ("the token was refused", "the token was refused"),
        ("17 total_tokens, token_id 3", "17 total_tokens, token_id 3"),
        ("https://host/path?page=2", "https://host/path?page=2"),
    ],
)
def test_a_text_keeps_everything_but_its_secrets(text: str, shown: str) -> None:
    """What is not a secret stays readable."""
    assert redact(text) == shown


def test_counts_and_ids_of_tokens_are_no_secrets() -> None:
    """A key that only mentions tokens keeps its value."""
    stream = io.StringIO()
    configure_logging("info", as_text=False, stream=stream)
    structlog.get_logger("x").info("a", total_tokens=42, token_id=3, tokens_seen="many")
    (line,) = lines(stream)
    assert (line["total_tokens"], line["token_id"], line["tokens_seen"]) == (42, 3, "many")


def test_hostile_texts_are_redacted_in_linear_time() -> None:
    """Texts of endpoints are redacted: 64 KiB of names, quotes or backslashes take no noticeable time."""
    began = time.perf_counter()
    for unit in ("token", "token-", '\\"', "token:", 'token="', "://", "bearer "):
        redact(unit * (65536 // len(unit)))
    assert time.perf_counter() - began < 10.0  # it takes 1.5 s; at quadratic cost it would be hours


def test_a_message_that_somebody_has_to_act_on_names_its_runbook() -> None:
    """What says itself what to do, or asks for nothing, names none."""
    stream = io.StringIO()
    configure_logging("info", as_text=False, stream=stream)
    structlog.get_logger("x").warning("destination_down", destination="endpoint")
    structlog.get_logger("x").info("running")
    down, running = lines(stream)
    assert down["runbook"] == "docs/runbooks.md#a-destination-is-down"
    assert "runbook" not in running

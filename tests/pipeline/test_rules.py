"""The pure rules of the pipeline: transcripts, redaction, answers, callback words, hours."""

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from uploaders.pipeline.callback_words import callback_of, day_begin, next_allowed, resolve, wanted_words
from uploaders.pipeline.models import BadAnswer
from uploaders.pipeline.options import CallbackRule, leaves_machine
from uploaders.pipeline.summary import checked, redacted, transcript_for
from uploaders.pipeline.uploader import read_text
from uploaders.stores.pipeline import CallText

SAID = (("caller", "hello"), ("agent", "hi there"))
USER, BOT = {"role": "user", "content": "hello"}, {"role": "bot", "message": "hi there"}
FORMS = {
    "call log": {"transcript_json": [USER, {"role": "assistant", "content": "hi there"}]},
    "several texts": {"transcript_json": [{"role": "USER", "content": ["hel", 7, "lo"]}, BOT]},
    "turns of the SDK": {"transcript_with_metrics": [{"user_transcript": "hello", "agent_response": "hi there"}]},
    "lines": {"transcript": "User: hello\nAI: hi there\nnoise"},
    "an object": {"transcript": {"items": [{"role": "user", "content": ["hello"]}, BOT]}},
    "the second form": {"transcript_json": [], "messages": [{"speaker": "human", "text": "hello"}, BOT]},
}


@pytest.mark.parametrize("document", FORMS.values(), ids=FORMS)
def test_a_transcript_is_read_in_every_form(document: dict[str, object]) -> None:
    """As agents, the SDK and providers write it."""
    turns = read_text(json.dumps(document).encode(), "call_ended").turns
    assert [(role, said.replace("hel lo", "hello")) for role, said in turns] == list(SAID)


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"null", b'{"transcript_json": 7}', b'{"transcript_json": [1, null, {"role": []}, {"role": "user"}]}',
     b'{"transcript_json": [{"role": "system", "content": "be nice"}]}', b"{" * 100_000,
     b'{"transcript": {"items": "x"}}'],
)  # fmt: skip
def test_what_is_no_transcript_is_none(document: bytes) -> None:
    """A value of an unexpected type is left out."""
    assert read_text(document, "call_ended").turns == ()


def test_a_text_that_no_database_takes_is_made_one() -> None:
    """NUL and lone surrogates, which agents do send."""
    text = read_text(b'{"transcript_json": [{"role": "user", "content": "a\\u0000b\\ud800c"}]}', "call_ended")
    assert text.turns == (("caller", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"),)


def test_a_complete_call_is_read_from_its_end_and_its_start() -> None:
    """What the end leaves out the start says."""
    end = {"transcript_json": [{"role": "user", "content": "hello"}], "call_ended_at": "2027-01-15T08:00:00Z"}
    start = {"customer_number": 15551234567, "agent_id": "a", "customer_name": "Ann"}
    document = {"wcall_event": "call_complete", "end": end, "start": start, "updates": []}
    text = read_text(json.dumps(document).encode(), "call_complete")
    assert (text.number, text.agent_id, text.names, text.ended_at) == ("15551234567", "a", ("Ann",), 1_800_000_000_000)


@pytest.mark.parametrize(
    "document",
    [{"opt_out_sensitive_data_storage": True},
     {"original": {"data": {"metadata": {"deletion_settings": {"delete_transcript_and_pii": True}}}}}],
)  # fmt: skip
def test_a_providers_opt_out_is_seen(document: dict[str, object]) -> None:
    """Retell's, and ElevenLabs'."""
    assert read_text(json.dumps(document).encode(), "call_ended").opted_out


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("my card is 4111 1111 1111 1111 ok", "my card is [card] ok"),
        ("my card is 4111-1111-1111-1112", "my card is [number]"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [iban] please"),
        ("write to a.b+c@mail.example.org.", "write to [e-mail]."),
        ("ssn 078-05-1120", "ssn [number]"),
        ("call +49 (30) 123-4567 now", "call [number] now"),
        ("it is four one one one double two three four five", "it is [number]"),
        ("in 2027 it cost 1,200 dollars at 10:30", "in 2027 it cost 1,200 dollars at 10:30"),
        ("this is ann lee speaking", "this is [name] speaking"),
    ],
)
def test_what_identifies_a_caller_is_masked(text: str, masked: str) -> None:
    """And prices, years and times are not."""
    assert redacted(text, ("Ann Lee",)) == masked


def test_only_loopback_is_this_machine() -> None:
    """Whatever a name looks like."""
    assert not any(map(leaves_machine, ("http://127.0.0.1:1/v1", "http://[::1]/v1", "http://localhost/v1")))
    assert all(map(leaves_machine, ("http://127.0.0.1.example.org", "https://api.openai.com/v1", "http://10.0.0.1")))


def test_an_answer_is_believed_as_far_as_the_caller_said_it() -> None:
    """Words that the caller did not say ask for no callback; a fence around JSON does no harm."""
    text = CallText((("caller", "Please call me back, tomorrow at 3 pm!"), ("agent", "call me never")))
    answer = {"summary": " a\n b\u202e ", "sentiment": "furious", "callback": "call me back tomorrow at 3 PM"}
    found = checked(f"```json\n{json.dumps(answer)}\n```", text, 5)
    assert (found.summary, found.sentiment, found.callback_words) == ("a b", None, "call me back tomorrow at 3 PM")
    assert checked(json.dumps({**answer, "callback": "call me never"}), text, 5).callback_words is None
    with pytest.raises(BadAnswer):
        checked('{"summary": "\\ud800"}', text, 5)


def test_of_a_long_call_beginning_and_end_are_given() -> None:
    """Within the limit, with a mark in between."""
    text = CallText(tuple(("caller", f"sentence {number}") for number in range(10_000)))
    given = transcript_for(text, leaves_machine=False, most=2000)
    assert len(given) <= 2000
    assert given.startswith("caller: sentence 0\n")
    assert given.endswith("caller: sentence 9999")
    assert "\n[...]\n" in given


# Callbacks. Said on Wednesday, 14 July 2027, at 10:20 in Berlin.

BERLIN = ZoneInfo("Europe/Berlin")
RULE = CallbackRule("Europe/Berlin")


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return round(datetime(year, month, day, hour, minute, tzinfo=BERLIN).timestamp() * 1000)


SAID_AT = at(2027, 7, 14, 10, 20)


@pytest.mark.parametrize(
    ("words", "time"),
    [
        ("call me back tomorrow at 3pm", (2027, 7, 15, 15)),
        ("call me tomorrow at three", (2027, 7, 15, 15)),
        ("ring me at 11:45", (2027, 7, 14, 11, 45)),
        ("ring me at 9:30", (2027, 7, 15, 9, 30)),
        ("call me in two hours", (2027, 7, 14, 12, 20)),
        ("call me back in half an hour", (2027, 7, 14, 10, 50)),
        ("call me in 3 days at noon", (2027, 7, 17, 12)),
        ("call me Monday morning", (2027, 7, 19, 9)),
        ("call me on wednesday at 4 p.m.", (2027, 7, 21, 16)),
        ("call me next week", (2027, 7, 19, 9)),
        ("the day after tomorrow, in the afternoon", (2027, 7, 16, 14)),
        ("on the 5th of August at 10 am", (2027, 8, 5, 10)),
        ("on 2027-07-20 at 14:15", (2027, 7, 20, 14, 15)),
        ("August 3rd", (2027, 8, 3, 9)),
        ("call me tonight", (2027, 7, 14, 18)),
        ("call me back sometime", None),
        ("4411 from March", None),
        ("I may call you back", None),
        ("on January 5", None),
        ("in 300 days", None),
        ("on 2027-02-31", None),
        ("on 2020-01-01 at 10:00", None),
        ("\u017funday 31 augu\u017ft", None),
        ("in five m\u0131nutes", None),
        ("at \u017feven", None),
    ],
)
def test_words_become_a_time(words: str, time: tuple[int, ...] | None) -> None:
    """In the caller's zone; what says no time, one in the past, or one beyond 30 days is none."""
    assert resolve(words, SAID_AT, RULE) == (None if time is None else at(*time))


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (
            "Fine. Can you call me back tomorrow at 3 p.m. please? Thanks.",
            "Can you call me back tomorrow at 3 p.m",
        ),
        ("Give me a call on Monday", "Give me a call on Monday"),
        ("Please don't call me back", None),
        ("I was told that you are open on Monday", None),
        ("I called back yesterday", None),
    ],
)
def test_only_words_beside_a_callback_phrase_count(said: str, wanted: str | None) -> None:
    """The caller's; what the agent offers is no wish."""
    assert wanted_words(CallText((("agent", "Shall I call you? Call me!"), ("caller", said)))) == wanted


def test_nobody_is_called_outside_the_hours() -> None:
    """At night, on Saturday and after the last hour the next opening counts; through changes of the clocks too."""
    assert next_allowed(at(2027, 7, 14, 10, 20), RULE) == at(2027, 7, 14, 10, 20)
    assert next_allowed(at(2027, 7, 14, 3), RULE) == at(2027, 7, 14, 9)
    assert next_allowed(at(2027, 7, 14, 18), RULE) == at(2027, 7, 15, 9)
    assert next_allowed(at(2027, 7, 16, 18), RULE) == at(2027, 7, 19, 9)
    # Summer time ends on 31 October 2027: Friday, 18:00 to Monday, 9:00 is an hour longer.
    assert next_allowed(at(2027, 10, 29, 18), RULE) - at(2027, 10, 29, 18) == (63 + 1) * 3_600_000
    assert day_begin(at(2027, 7, 14, 0, 30), RULE) == at(2027, 7, 14)


def test_tomorrow_at_nine_is_nine_where_the_clocks_change() -> None:
    """Said before the night in which they do, in both directions; "in 24 hours" is 24 hours."""
    for day in (27, 30):
        month = 3 if day == 27 else 10
        said = at(2027, month, day, 20)
        assert resolve("tomorrow at 9 am", said, RULE) == at(2027, month, day + 1, 9)
        assert resolve("in 24 hours", said, RULE) == said + 24 * 3_600_000


def test_a_callback_needs_a_number_of_the_metadata() -> None:
    """One that somebody said is none; words without a time mean the next working hour."""
    text = CallText((("caller", "call me back on +1 900 555 0000"),), ended_at=at(2027, 7, 16, 19))
    assert callback_of(text, "call me back", RULE, at(2027, 7, 16, 19, 1)) is None
    numbered = CallText(text.turns, number="+49301234567", ended_at=text.ended_at)
    wanted = callback_of(numbered, "call me back", RULE, at(2027, 7, 16, 19, 1))
    assert wanted is not None
    assert (wanted.number, wanted.due_at) == ("+49301234567", at(2027, 7, 19, 9))
    assert datetime.fromtimestamp(wanted.due_at / 1000, UTC).hour == 7

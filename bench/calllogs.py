"""Makes call logs of any size for benchmarks and tests: the same arguments give the same bytes.

They are shaped like those of a voice agent's observability SDK: turns of about 100 KB that repeat their
configuration, spans of about 10 KB, nanosecond times, floats of 17 digits, and words from a large vocabulary, so that
zstd makes about a fifth of them, as of real ones. The size is met to the byte from 2 KB on.

    python -m bench.calllogs --size 15MB --seed 7 > call.json
"""

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Final

SMALLEST: Final = 2_000
TURN_BYTES: Final = 100_000
SPAN_BYTES: Final = 10_000
_WITH_TURNS_FROM: Final = 40_000
"""Below this size a call log has its transcript only, as the posts at the beginning of a call have."""
_SPANS_IN_TURN: Final = 6
_FRESH: Final = 0.53
"""The part of a long text that was not said before in the same call; it sets how well the whole compresses."""
_MOST_WORDS: Final = 250_000
_START_SECONDS: Final = 1_795_300_000
_UNITS: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SYLLABLES: Final = "ba con de er fi gro hu in jo ka lo men no or pre qui ra ste tion ul ver wa xi ya zen"
_OPERATIONS: Final = ("llm", "tts", "stt", "tool", "user_interaction", "assistant_interaction", "other")


def make_call_log(
    size_bytes: int, *, seed: int, call_id: str | None = None, event: str = "call_ended", token: str | None = None
) -> bytes:
    """A call log of exactly `size_bytes` (2 KB or more), in memory."""
    return b"".join(iter_call_log(size_bytes, seed=seed, call_id=call_id, event=event, token=token))


def iter_call_log(
    size_bytes: int, *, seed: int, call_id: str | None = None, event: str = "call_ended", token: str | None = None
) -> Iterator[bytes]:
    """The same call log in pieces of about 100 KB at most, so that giants need no memory.

    Raises `ValueError` for a size below 2 KB.
    """
    if size_bytes < SMALLEST:
        raise ValueError(f"a call log of {size_bytes} bytes holds nothing; ask for {SMALLEST} or more")
    return _pieces(_Call(seed, size_bytes), size_bytes, call_id, event, token)


@cache
def _vocabulary() -> list[str]:
    """The words of the language; they are the same for every call."""
    rng, syllables = Random(0), _SYLLABLES.split()
    return ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(20_000)]


class _Call:
    """The source of one call's words and figures."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = Random(seed)
        self.pool = " ".join(self.rng.choices(_vocabulary(), k=min(size, _MOST_WORDS)))
        self.prompt = self.said(6_000)
        self.session = self.hexadecimal(128)
        self.clock_ns = _START_SECONDS * 10**9 + self.rng.randrange(10**9)
        self.configuration = self._configuration()

    def said(self, length: int) -> str:
        """Fresh words, of exactly this length."""
        length = max(length, 0)
        whole, part = divmod(length, len(self.pool) // 2)
        start = self.rng.randrange(len(self.pool) // 2)
        return self.pool[: len(self.pool) // 2] * whole + self.pool[start : start + part]

    def text(self, length: int) -> str:
        """Words of exactly this length, most of them said before: prompts and histories repeat themselves."""
        fresh = int(length * _FRESH)
        old = max(length - fresh, 0)
        return self.said(fresh) + (self.prompt * (old // len(self.prompt) + 1))[:old]

    def hexadecimal(self, bits: int) -> str:
        """An identifier."""
        return f"{self.rng.getrandbits(bits):0{bits // 4}x}"

    def advance(self, seconds: float) -> int:
        """Let time pass; the nanosecond then."""
        self.clock_ns += int(seconds * 1e9)
        return self.clock_ns

    def _configuration(self) -> str:
        return (
            f'{{"llm_configuration": {{"model": "m-{self.hexadecimal(16)}", "temperature": 0.7000000000000001, '
            f'"instructions": "{self.said(2_400)}"}}, "stt_configuration": {{"model": "s-3", "language": "en"}}, '
            f'"tts_configuration": {{"voice": "v-{self.hexadecimal(32)}", "speed": 1.05}}, "vad_configuration": '
            f'{{"min_silence_duration": 0.25, "activation_threshold": 0.5}}, "tools": "{self.said(1_200)}"}}'
        )


def _pieces(call: _Call, size: int, call_id: str | None, event: str, token: str | None) -> Iterator[bytes]:
    call_id = call_id or f"call-{call.hexadecimal(64)}"
    half = (size - 6_000) // 2 if size >= _WITH_TURNS_FROM else 0
    turns = max(1, round(half / TURN_BYTES)) if half else 0
    spoken = [(call.said(60 + 7 * (n % 9)), call.said(180 + 13 * (n % 11))) for n in range(turns or 2)]
    end = _end(call, token)
    written = 0
    for piece in _begin(call, call_id, event, spoken, turns, half):
        written += len(piece)
        yield piece.encode()
    if half:
        lead = ', "telemetry_data": {"session_traces": ['
        yield lead.encode()
        for piece in _spans(call, size - written - len(lead) - len(end) - 2):
            yield piece.encode()
        yield b"]}"
    else:
        notes = ', "notes": "'
        yield f'{notes}{call.said(size - written - len(notes) - 1 - len(end))}"'.encode()
    yield end.encode()


def _begin(
    call: _Call, call_id: str, event: str, spoken: list[tuple[str, str]], turns: int, turns_bytes: int
) -> Iterator[str]:
    started = call.clock_ns / 1e9
    yield (
        f'{{"call_id": "{call_id}", "agent_id": "agent-{call.hexadecimal(64)}", "wcall_event": "{event}", '
        f'"customer_number": "+1555{call.rng.randrange(10**6):06}", "call_ended_reason": "completed", '
        f'"call_started_at": {started!r}, "call_ended_at": {started + 11.5 * len(spoken)!r}, '
        f'"transcript_type": "agent", "recording_url": "", "transcript_json": ['
    )
    yield ", ".join(
        f'{{"role": "user", "content": "{said}"}}, {{"role": "assistant", "content": "{answer}"}}'
        for said, answer in spoken
    )
    yield "]"
    for number in range(turns):
        opening = ', "transcript_with_metrics": [' if number == 0 else ", "
        closing = "]" if number == turns - 1 else ""
        yield opening + _turn(call, number, *spoken[number], turns_bytes // turns) + closing


def _end(call: _Call, token: str | None) -> str:
    return (
        f', "metadata": {{"usage": {{"llm_prompt_tokens": {call.rng.randrange(10**5)}, "tts_characters": 9120}}, '
        f'"customer_name": "Caf\\u00e9 \\"Nord\\" \\ud83d\\ude00"}}, "billing_duration_seconds": 300'
        + (f', "token": "{token}"' if token is not None else "")
        + "}"
    )


def _turn(call: _Call, number: int, said: str, answer: str, size: int) -> str:
    rng = call.rng
    span_bytes = min(SPAN_BYTES, size // (2 * _SPANS_IN_TURN))
    spans = ", ".join(_span(call, span_bytes) for _ in range(_SPANS_IN_TURN))
    start = (
        f'{{"turn_id": "turn_{number + 1}", "user_transcript": "{said}", "agent_response": "{answer}", '
        f'"stt_metrics": {{"audio_duration": {rng.uniform(1, 6)!r}, "duration": 0.0}}, '
        f'"llm_metrics": {{"prompt_tokens": {rng.randrange(300, 9_000)}, "completion_tokens": {rng.randrange(9, 300)}, '
        f'"ttft": {rng.uniform(0.2, 1.4)!r}, "tokens_per_second": {rng.uniform(20, 90)!r}}}, '
        f'"tts_metrics": {{"ttfb": {rng.uniform(0.05, 0.5)!r}, "characters_count": {len(answer)}}}, '
        f'"eou_metrics": {{"end_of_utterance_delay": {rng.uniform(0.1, 0.9)!r}}}, '
        f'"timestamp": {call.advance(rng.uniform(4, 16)) / 1e9!r}, "trace_id": "trace_{call.hexadecimal(64)}", '
        f'"otel_spans": [{spans}], "tool_calls": [], "trace_duration_ms": {rng.uniform(900, 4_000)!r}, '
        f'"trace_cost_usd": null, "turn_configuration": {call.configuration}, '
        f'"prompt_data": {{"system_instructions": "{call.prompt if size > 3 * SPAN_BYTES else ""}", "history": "'
    )
    return start + call.text(size - len(start) - 3) + '"}}'


def _spans(call: _Call, size: int) -> Iterator[str]:
    """Spans with commas between them, of this size together."""
    count = max(1, round(size / SPAN_BYTES))
    remaining = size
    for left in range(count, 0, -1):
        separator = ", " if left > 1 else ""
        share = remaining // left
        yield _span(call, share - len(separator)) + separator
        remaining -= share


def _span(call: _Call, size: int) -> str:
    rng = call.rng
    duration = int(rng.lognormvariate(18.5, 1.6))
    started = call.advance(rng.uniform(0.001, 0.4))
    failed = rng.random() < 0.01
    start = (
        f'{{"name": "{_vocabulary()[rng.randrange(60)]}_request", "start_time_ns": {started}, '
        f'"end_time_ns": {started + duration}, "duration_ns": {duration}, "duration_ms": {duration / 1e6!r}, '
        f'"operation_type": "{rng.choice(_OPERATIONS)}", '
        f'"status": {{"code": {2 if failed else 0}, "name": "{"ERROR" if failed else "UNSET"}", "description": null}}, '
        f'"context": {{"trace_id": "0x{call.session}", "span_id": "0x{call.hexadecimal(64)}", "trace_flags": 3}}, '
        f'"parent_span_id": "0x{call.hexadecimal(64)}", "request_id": "{call.hexadecimal(128)}", '
        f'"resource": {{"telemetry.sdk.language": "python", "service.name": "agent"}}, "events": [], "links": [], '
        f'"exceptions": [], "kind": "INTERNAL", "captured_at": {started / 1e9!r}, '
        f'"attributes": {{"session_id": "{call.session}", "gen_ai.request.model": "m", "lk.text": "'
    )
    return start + call.text(size - len(start) - 3) + '"}}'


def parse_size(text: str) -> int:
    """Bytes from a number with or without a unit: 15MB, 2 KiB, 1e9 is none. Raises `ValueError`."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is no size; write bytes, or a number with KB, MB, GB, KiB, MiB or GiB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def main() -> None:
    """Write a call log to standard output."""
    parser = argparse.ArgumentParser(prog="python -m bench.calllogs", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_size, required=True, help="for example 2KB, 15MB, 1GB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--call-id")
    parser.add_argument("--event", default="call_ended")
    parser.add_argument("--token", help="put this into the top-level field `token`")
    options = parser.parse_args()
    for piece in iter_call_log(
        options.size, seed=options.seed, call_id=options.call_id, event=options.event, token=options.token
    ):
        sys.stdout.buffer.write(piece)


if __name__ == "__main__":
    main()

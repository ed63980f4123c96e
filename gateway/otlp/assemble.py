"""From the spans of a trace to a call log: the transcript out of their attributes, the spans as telemetry. Pure."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_NANOSECONDS: Final = 1_000_000_000
_LATEST_SECOND: Final = 253402300799
_SEPARATOR: Final = b","


class _Context(msgspec.Struct):
    span_id: str = ""


class _Head(msgspec.Struct):
    """What of a span says something about the call."""

    name: str = ""
    context: _Context = msgspec.field(default_factory=_Context)
    parent_span_id: str | None = None
    start_time_ns: int | str = 0
    end_time_ns: int | str = 0
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)


_head = msgspec.json.Decoder(_Head)


def assemble(
    trace_id: str, call_id: str, agent_id: str | None, lines: Iterable[bytes], *, update: bool
) -> tuple[bytes, ...]:
    """The pieces of the call log that these spans make. The same spans make the same bytes, whatever their order.

    A span that came twice, because its exporter tried again, is in it once. With `update` it says only what is late.
    """
    spans = {head.context.span_id: (head, line) for line in lines for head in [_head.decode(line)]}
    ordered = sorted(spans.values(), key=_place)
    heads = [head for head, _ in ordered]
    telemetry = _SEPARATOR.join(line for _, line in ordered)
    about: dict[str, object] = {"call_id": call_id}
    if agent_id is not None:
        about["agent_id"] = agent_id
    if update:
        about["update_type"] = "late_spans"
    else:
        about |= _of_the_call(heads)
    about["otel"] = {"trace_id": trace_id, "spans": len(ordered)}
    written = json.dumps(about, separators=(",", ":"))[:-1]
    return f'{written},"telemetry_data":{{"session_traces":['.encode(), telemetry, b"]}}"


def _place(span: tuple[_Head, bytes]) -> tuple[int, str]:
    head, _ = span
    return _number(head.start_time_ns), head.context.span_id


def _of_the_call(heads: Sequence[_Head]) -> dict[str, object]:
    started = min((time for head in heads if (time := _number(head.start_time_ns))), default=0)
    ended = max((_number(head.end_time_ns) for head in heads), default=0)
    reason = next((value for head in heads if (value := head.attributes.get("lk.close_reason"))), "completed")
    given = {
        "wcall_event": "call_ended",
        "call_started_at": _moment(started),
        "call_ended_at": _moment(ended),
        "call_ended_reason": str(reason),
        "transcript_type": "agent",
        "transcript_json": transcript(heads),
    }
    return {name: value for name, value in given.items() if value}


def transcript(heads: Sequence[_Head]) -> list[dict[str, str]]:
    """Who said what, in the order of the spans.

    LiveKit puts both sides into `agent_turn`; Pipecat the caller into `stt`, and the agent into `llm`.
    """
    turns: list[dict[str, str]] = []
    for head in heads:
        attributes, name = head.attributes, head.name.lower()
        if name == "agent_turn":
            _say(turns, "user", attributes.get("lk.pii.user_input", attributes.get("lk.user_input")))
            _say(turns, "assistant", attributes.get("lk.pii.response.text", attributes.get("lk.response.text")))
        elif name.startswith("stt") and attributes.get("is_final", True):
            _say(turns, "user", attributes.get("transcript"))
        elif name.startswith("llm") and "output" in attributes:
            _say(turns, "assistant", attributes["output"])
    return turns


def _say(turns: list[dict[str, str]], role: str, said: object) -> None:
    if isinstance(said, str) and said.strip():
        turns.append({"role": role, "content": said})


def _number(time: int | str) -> int:
    return time if isinstance(time, int) else 0


def _moment(nanoseconds: int) -> str | None:
    seconds = nanoseconds / _NANOSECONDS
    if not 0 < seconds <= _LATEST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

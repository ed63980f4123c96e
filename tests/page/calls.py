"""Call logs as a framework posts them, with turns, spans and figures that somebody can look at."""

import json
import random
from typing import Any

_TALK = (
    ("Hi, I have an appointment on Thursday and I need to move it.",
     "Good evening, and thanks for calling. I can move it for you. May I have your date of birth first?"),
    ("The fourth of May, nineteen eighty-six.", "Thank you. One moment while I look that up."),
    ("Sure.", "I have found you: a check-up with Dr Alvarez on Thursday at nine forty. Is that the one?"),
    ("Yes, that one.", "Which day would suit you better?"),
    ("Tomorrow, if there is anything in the morning.", "Let me see what is free tomorrow morning."),
    ("Okay.", "There are two slots tomorrow: eight twenty and eleven ten. Both are with Dr Alvarez."),
    ("Is there anything with Dr Osei?", "Let me check. Dr Osei has ten thirty tomorrow."),
    ("Ten thirty is fine.", "Then I move your check-up to tomorrow, ten thirty, with Dr Osei. Is that right?"),
    ("Yes, please.", "Done. You will get a message with the new time."),
    ("Could the message go to another number, too?", "Of course. Which number would that be?"),
    ("It is my partner's: five five five, zero one, seven seven.",
     "I have added it. The message goes to both numbers."),
    ("Do I have to pay anything?", "There is a rest of forty dollars, which you can pay at the desk or by a link."),
    ("By link is fine.", "I will send the link to your number now. It is valid for a day."),
    ("Hello?", "I am here. Sorry for the wait, sending the link took longer than usual. It is on its way."),
    ("I have it. Thanks.", "You are welcome. Is there anything else that I can do for you?"),
    ("No, that was all.", "Then see you tomorrow at ten thirty. Good bye."),
)  # fmt: skip
_TOOLS = {
    2: "find_patient",
    5: "free_slots",
    7: "free_slots",
    8: "move_appointment",
    11: "add_contact",
    13: "send_payment_link",
}


def make_call(
    call_id: str, *, turns: int = 38, started: float = 1_795_889_904.0, agent: str = "appointments-en",
    number: str = "+1 555 0100 100", seed: int = 1, reason: str = "completed", padding: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """A call log of so many turns with 13 or 14 spans each; `padding` bytes are added to its configuration."""
    rng = random.Random(seed)
    spans: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    clock = started

    def span(name: str, operation: str, start: float, seconds: float, parent: str | None, **more: object) -> str:
        identity = f"0x{rng.getrandbits(64):016x}"
        spans.append({
            "name": name, "operation_type": operation, "start_time_ns": int(start * 1e9),
            "end_time_ns": int((start + seconds) * 1e9), "duration_ms": seconds * 1000,
            "context": {"trace_id": "0x697c2d282483c0186a516ad40b818155", "span_id": identity},
            "parent_span_id": parent, "status": {"code": 0, "name": "UNSET", "description": None}, "exceptions": [],
            "attributes": {"gen_ai.request.model": "scripted", **more}, "conversation_turn_id": None,
        })  # fmt: skip
        return identity

    session = span("session_start", "other", clock, 1.9, None)
    activity = span("start_agent_activity", "other", clock + 0.18, 1.65, session)
    span("setup_toolsets", "tool", clock + 0.19, 0.24, activity)
    span("on_enter", "other", clock + 1.7, 0.11, session)
    clock += 2.7
    for turn in range(1, turns + 1):
        said, answer = _TALK[(turn - 1) % len(_TALK)]
        listening = 0.5 + 0.06 * len(said) * rng.uniform(0.8, 1.2)
        eou, ttft, ttfb = rng.uniform(0.36, 0.64), rng.uniform(0.22, 0.6), rng.uniform(0.17, 0.3)
        if turn == 22:
            ttft = 2.94
        elif turn == 7:
            eou = 1.31
        elif turn == 31:
            ttfb = 0.93
        talking = 0.4 + 0.055 * len(answer)
        user = span("user_turn", "other", clock, listening + eou, None)
        span("user_speaking", "other", clock, listening, user)
        span("stt_node", "stt", clock + 0.09, listening + 0.1, user)
        span("eou_detection", "other", clock + listening, eou, user)
        begin = clock + listening + eou
        agent_turn = span("agent_turn", "other", begin, ttft + ttfb + talking, None)
        node = span("llm_node", "llm", begin + 0.004, ttft + 0.3, agent_turn)
        request = span("llm_request", "llm", begin + 0.009, ttft + 0.29, node)
        span("llm_request_run", "llm", begin + 0.014, ttft + 0.28, request)
        tool = _TOOLS.get((turn - 1) % len(_TALK) + 1)
        calls = []
        if tool:
            seconds = 4.18 if turn == 13 else rng.uniform(0.2, 0.65)
            span("function_tool", "tool", begin + ttft + 0.15, seconds, agent_turn, **{"lk.function_tool.name": tool})
            calls.append({"name": tool, "duration_ms": seconds * 1000})
            if turn == 13:
                spans[-1]["status"] = {"code": 2, "name": "ERROR", "description": "deadline of the payment service"}
        speech = span("tts_node", "tts", begin + ttft + 0.02, talking * 0.55 + ttfb, agent_turn)
        span("tts_request", "tts", begin + ttft + 0.03, talking * 0.5 + ttfb, speech)
        span("agent_speaking", "other", begin + ttft + ttfb, talking, agent_turn)
        told.append({
            "turn_id": f"turn_{turn}", "user_transcript": said, "agent_response": answer, "timestamp": clock,
            "eou_metrics": {"end_of_utterance_delay": eou},
            "llm_metrics": {"ttft": ttft, "prompt_tokens": 300 + 40 * turn, "completion_tokens": 14,
                            "calculated_cost": 0.0047},
            "tts_metrics": {"ttfb": ttfb, "characters_count": len(answer)}, "stt_metrics": None, "tool_calls": calls,
        })  # fmt: skip
        clock = begin + ttft + ttfb + talking + rng.uniform(0.3, 0.9)
    return {
        "call_id": call_id, "agent_id": agent, "wcall_event": "call_ended", "customer_number": number,
        "call_ended_reason": reason, "call_started_at": started, "call_ended_at": clock, "transcript_type": "agent",
        "transcript_json": [
            {"role": role, "content": turn[said]}
            for turn in told
            for role, said in (("user", "user_transcript"), ("assistant", "agent_response"))
        ],
        "transcript_with_metrics": told,
        "metadata": {"usage": {"llm_prompt_tokens": 59_593, "llm_completion_tokens": 522, "tts_characters": 2_113},
                     "configuration": padded(rng, padding)},
        "telemetry_data": {"session_traces": spans},
    }  # fmt: skip


def padded(rng: random.Random, size: int) -> str:
    """Text that hardly compresses."""
    return rng.randbytes(size // 2).hex()


def as_json(call: dict[str, Any]) -> bytes:
    """As it is posted."""
    return json.dumps(call).encode()

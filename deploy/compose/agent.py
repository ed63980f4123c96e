"""A stand-in for a voice agent: it posts the start and the end of a call, every few seconds, as an agent would.

    POST_TO=http://127.0.0.1:7717/v1/calls python agent.py

Of every third call the log is large enough to be sent in two phases. It repeats what is not accepted.
"""

import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
import uuid

POST_TO = os.environ.get("POST_TO", "http://127.0.0.1:7717/v1/calls")
SECONDS = float(os.environ.get("SECONDS_BETWEEN_CALLS", "5"))
CALLS = int(os.environ.get("CALLS", "0"))
"""How many calls to make; 0: without an end."""
LARGE_SPANS = 9_000
SENTENCES = ("Hello, how can I help?", "I would like to change my booking.", "Which day suits you?", "Friday, please.")


def post(document: dict[str, object]) -> None:
    """Until it is accepted."""
    body = json.dumps(document).encode()
    while True:
        request = urllib.request.Request(
            POST_TO, body, {"Content-Type": "application/json", "x-pype-token": "agents-key"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                sys.stdout.write(f"{document['wcall_event']} of {document['call_id']}: {answer.status}\n")
                sys.stdout.flush()
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            sys.stderr.write(f"not accepted, and tried again: {error}\n")
            time.sleep(1)


def call(number: int) -> None:
    """One call: its start, some seconds, its end with what was said and its spans."""
    call_id, started = f"call-{uuid.uuid4().hex[:12]}", time.time()
    common: dict[str, object] = {"call_id": call_id, "agent_id": "stand-in", "environment": "dev"}
    post({**common, "wcall_event": "call_started", "call_started_at": started})
    spans = [
        {
            "name": name,
            "start_time_ns": time.time_ns(),
            "duration_ms": random.randint(20, 900),
            "text": random.choice(SENTENCES) * 6,
        }
        for _ in range(LARGE_SPANS if number % 3 == 0 else 10)
        for name in ("stt", "llm", "tts")
    ]
    turns = [{"role": ("assistant", "user")[index % 2], "content": text} for index, text in enumerate(SENTENCES)]
    post({
        **common, "wcall_event": "call_ended", "call_started_at": started, "call_ended_at": time.time(),
        "call_ended_reason": "completed", "transcript_json": turns, "telemetry_data": {"session_traces": spans},
    })  # fmt: skip


def main() -> None:
    """Call after call."""
    number = 0
    while number < CALLS or CALLS == 0:
        number += 1
        call(number)
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()

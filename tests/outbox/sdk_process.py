"""An agent with the Whispey SDK, unmodified, that leaves rows in its outbox; told by its arguments how.

    python sdk_process.py MODE COUNT [CALL_LOGS.json]

WHISPEY_OUTBOX_PATH, WHISPEY_API_URL and WHISPEY_API_KEY say where. It prints the ids of its calls as JSON. Of the agent
framework that the SDK observes, only the names that it imports are there: no session is observed here.
"""

import asyncio
import json
import os
import sys
import types
from pathlib import Path


def without_framework() -> None:
    """Give the SDK the names that it imports from LiveKit Agents."""

    def named(*names: str) -> dict[str, type]:
        return {name: type(name, (), {"get_summary": lambda _self: None}) for name in names}

    metrics = types.ModuleType("livekit.agents.metrics")
    metrics.__dict__.update(
        named("STTMetrics", "LLMMetrics", "TTSMetrics", "EOUMetrics", "VADMetrics", "UsageCollector")
    )
    agents = types.ModuleType("livekit.agents")
    agents.__dict__.update(named("MetricsCollectedEvent"), metrics=metrics)
    livekit = types.ModuleType("livekit")
    sys.modules.update({"livekit": livekit, "livekit.agents": agents, "livekit.agents.metrics": metrics})


def observed(count: int) -> list[str]:
    """Begin calls, as an agent does when one comes in; each posts its `call_started` at once, if it can."""
    from whispey.whispey import observe_session

    url, key = os.environ["WHISPEY_API_URL"], os.environ["WHISPEY_API_KEY"]
    return [observe_session(None, "agent-1", url, apikey=key, api_url=url) for _ in range(count)]


def end(calls: list[str]) -> list[bool]:
    """End calls, as an agent does; whether each was posted."""
    from whispey.whispey import send_session_to_whispey

    return [bool(asyncio.run(send_session_to_whispey(call))["success"]) for call in calls]


def keep(path: Path) -> list[str]:
    """Post call logs and stop before their rows are deleted, as when the outbox is locked at that moment."""
    from whispey.outbox import write_entry
    from whispey.send_log import send_to_whispey

    call_logs = json.loads(path.read_text())
    for data in call_logs:
        row = {"whispey_data": data, "apikey": os.environ["WHISPEY_API_KEY"], "api_url": None}
        write_entry(data["call_id"], "call_ended", row, claim_immediately=True)
        assert asyncio.run(send_to_whispey(data, apikey=row["apikey"]))["success"]
    return [data["call_id"] for data in call_logs]


def main(mode: str, count: str, *more: str) -> None:
    """Do as the first argument says."""
    without_framework()
    output, sys.stdout = sys.stdout, sys.stderr
    if mode == "keep":
        calls = keep(Path(*more))
    else:
        calls = observed(int(count))
        if mode == "post":
            assert all(end(calls))
        elif mode == "fail":
            assert not any(end(calls))
        elif mode == "partly":
            end(calls[1:])
    print(json.dumps(calls), file=output, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Agents with the Whispey SDK: each posts one call log by the SDK's own code, unmodified, in a process of its own.

    python sdk_agent.py JOBS.json    (WHISPEY_API_URL and WHISPEY_API_KEY say where to)

Each job has a "call_log", where its "report" is to go, and the "environment" of its process. These are forked behind
the imports, one after the other. Only the SDK's file that posts is loaded: the package around it imports an agent
framework that posting does not need.
"""

import asyncio
import importlib.util
import json
import os
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any


def send(call_log: Path, report: Path) -> None:
    """Write what the SDK returned, and the call log as it left it: it adds to what it is given before it sends it."""
    sdk = loaded()
    data = json.loads(call_log.read_bytes())
    result = asyncio.run(sdk.send_to_whispey(data))
    report.write_text(json.dumps({"result": result, "sent": data}))


def loaded() -> Any:
    """The SDK's file, as a module that is new."""
    place = Path(str(distribution("whispey").locate_file("whispey/send_log.py")))
    spec = importlib.util.spec_from_file_location("whispey_send_log", place)
    assert spec is not None
    assert spec.loader is not None
    sdk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sdk)
    return sdk


def main(jobs: Path) -> None:
    """Do each in a process of its own; the first that fails is the last."""
    loaded()  # for what it imports
    for job in json.loads(jobs.read_bytes()):
        child = os.fork()
        if not child:
            os.environ.update(job["environment"])
            send(Path(job["call_log"]), Path(job["report"]))
            sys.exit()
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"the agent of {job['call_log']} ended with {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

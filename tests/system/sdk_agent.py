"""An agent with the Whispey SDK: posts one call log by the SDK's own code, unmodified, in a process of its own.

    python sdk_agent.py CALL_LOG.json REPORT.json    (WHISPEY_API_URL and WHISPEY_API_KEY say where to)

Only the SDK's file that posts is loaded: the package around it imports an agent framework that posting does not need.
"""

import asyncio
import importlib.util
import json
import sys
from importlib.metadata import distribution
from pathlib import Path


def main(call_log: Path, report: Path) -> None:
    """Write what the SDK returned, and the call log as it left it: it adds to what it is given before it sends it."""
    place = Path(str(distribution("whispey").locate_file("whispey/send_log.py")))
    spec = importlib.util.spec_from_file_location("whispey_send_log", place)
    assert spec is not None
    assert spec.loader is not None
    sdk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sdk)
    data = json.loads(call_log.read_bytes())
    result = asyncio.run(sdk.send_to_whispey(data))
    report.write_text(json.dumps({"result": result, "sent": data}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

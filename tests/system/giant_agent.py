"""An agent that sends a file as the body of one request, without holding it: a process that prints the answer.

python -m tests.system.giant_agent PORT PATH FILE [NAME:VALUE ...]
"""

import json
import sys
from http.client import HTTPConnection
from pathlib import Path

_SECONDS = 600.0
_BLOCK_BYTES = 1 << 18


def send(port: int, path: str, file: Path, headers: dict[str, str]) -> dict[str, object]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS, blocksize=_BLOCK_BYTES)
    with file.open("rb") as body:
        sent = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/json", **headers}
        connection.request("POST", path, body, sent)
        answer = connection.getresponse()
        return {"status": answer.status, "body": json.loads(answer.read())}


if __name__ == "__main__":
    fields = dict(argument.split(":", 1) for argument in sys.argv[4:])
    print(json.dumps(send(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), fields)))  # noqa: T201  # the result

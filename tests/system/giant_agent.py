"""An agent that sends a file as the body of one request, without holding it: a process that prints the answer.

python -m tests.system.giant_agent PORT METHOD PATH FILE [NAME:VALUE ...]
"""

import json
import sys
from http.client import HTTPConnection
from pathlib import Path

_SECONDS = 600.0
_BLOCK_BYTES = 1 << 18


def send(port: int, method: str, path: str, file: Path, headers: dict[str, str]) -> dict[str, object]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS, blocksize=_BLOCK_BYTES)
    with file.open("rb") as body:
        sent = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/json", **headers}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return {"status": answer.status, "body": json.loads(answer.read())}


if __name__ == "__main__":
    port, method, path, file, *fields = sys.argv[1:]
    headers = dict(field.split(":", 1) for field in fields)
    print(json.dumps(send(int(port), method, path, Path(file), headers)))  # noqa: T201  # the result

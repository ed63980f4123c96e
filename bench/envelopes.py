"""Sending call logs straight to an endpoint with everything encoded beforehand: the ceiling of draining.

    python -m bench.envelopes --port 7719 FILE FILE ...

Each file holds one envelope (base64 of gzip, as the endpoint takes it) and is posted over one of a few connections.
"""

import argparse
import base64
import queue
import sys
import threading
import zlib
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

from bench.requests import PLACEHOLDER, call_id

_CONNECTIONS = 2


def write_envelopes(body: bytes, count: int, folder: Path) -> tuple[Path, ...]:
    """Write so many envelopes of a body, each with another call id; named by that id."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, count + 1):
        document = body.replace(PLACEHOLDER, call_id(number).encode())
        squeezed = zlib.compress(document, level=1, wbits=31)
        path = folder / f"{call_id(number)}.json"
        path.write_bytes(b'{"compressed": true, "data": "' + base64.b64encode(squeezed) + b'"}')
        paths.append(path)
    return tuple(paths)


def send(port: int, path: str, files: Sequence[Path]) -> list[int]:
    """Post every file; the statuses, in the order of the answers."""
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for file in files:
        waiting.put(file)
    statuses: list[int] = []

    def work() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            try:
                file = waiting.get_nowait()
            except queue.Empty:
                break
            headers = {"Content-Type": "application/json", "Idempotency-Key": file.stem, "x-pype-token": "bench-token"}
            connection.request("POST", path, file.read_bytes(), headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def main() -> int:
    """Send the files that the command line names; 1 unless the endpoint took all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.envelopes", description="Post envelopes to an endpoint.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/dev/send-call-log")
    parser.add_argument("--repeat", type=int, default=1, help="post all of them so many times")
    parser.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    statuses = send(given.port, given.path, given.files * given.repeat)
    print(sorted(statuses))
    return 0 if statuses == [200] * len(given.files) * given.repeat else 1


if __name__ == "__main__":
    sys.exit(main())

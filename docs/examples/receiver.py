"""A reference receiver: what an endpoint behind callspool has to do, in 40 lines of Python without a library.

    python receiver.py 8080
    CALLSPOOL_ENDPOINT_URL=http://127.0.0.1:8080/send-call-log callspool run

It keeps calls in memory. A real one writes to a database before it answers: a 2xx means that it has the call.
"""

import base64
import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

calls: dict[str, dict] = {}
seen: set[str] = set()


class Receiver(BaseHTTPRequestHandler):
    """Takes call logs, cores, details and notices."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("compressed"):  # the envelope, for bodies above 10 KB
            body = json.loads(gzip.decompress(base64.b64decode(body["data"])))
        key, call_id = self.headers.get("Idempotency-Key", ""), str(body.get("call_id", ""))
        if not call_id:
            self.answer(422, {"success": False, "error": "no call_id"})  # a dead letter: it would fail for ever
        elif key and key in seen:
            self.answer(200, {"success": True, "duplicate": True})  # at least once: the same again
        elif body.get("update_type") == "detailed_telemetry" and call_id not in calls:
            self.answer(404, {"success": False, "error": "Call log not found"})  # Phase 1 comes first: it is retried
        else:
            calls.setdefault(call_id, {}).update(body)  # Phase 1, Phase 2, a notice: one record of the call
            seen.add(key)
            self.answer(200, {"success": True, "call_id": call_id})

    def answer(self, status: int, document: dict) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()

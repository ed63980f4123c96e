"""ClickHouse's engine behind its HTTP interface, as far as clickhouse-connect needs it: chDB in a process of its own.

    python -m bench.clickhouse_server DIRECTORY

prints the port that it listens on. chDB is the engine of ClickHouse as a library; a server of it comes in no package
that could be installed here. `POST /fault?status=500&text=Code: 252.` makes the next request fail, `status=0` breaks
its connection, and `after=1` carries the request out first.
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import threading
import types
import urllib.request
import uuid
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

_CODE = re.compile(r"Code: (\d+)\.")
_INSERT = re.compile(r"\s*insert\b", re.IGNORECASE)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_INLINE_INSERT = re.compile(rb"\s*insert\b[^\n]*format\s+\w+\s*\n", re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9.]+")
_NOT_SETTINGS = frozenset(
    {
        "query", "database", "default_format", "session_id", "session_timeout", "query_id", "compress", "decompress",
        "user", "password", "role", "client_protocol_version", "wait_end_of_query", "buffer_size",
        "enable_http_compression", "http_headers_progress_interval_ms", "send_progress_in_http_headers",
        "cancel_http_readonly_queries_on_client_close", "http_write_exception_in_output_format",
        "output_format_native_encode_types_in_binary_format",
    }
)  # fmt: skip
_NOT_THERE = {"60", "81"}
"""Unknown table, unknown database: a server answers 404."""


class _Absent(types.ModuleType):
    """Stands for a library that chDB imports for data frames, which nobody asks for here: 130 MB less to install."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


class _Engine:
    """chDB in one thread."""

    def __init__(self, directory: Path) -> None:
        for name in ("pandas", "pyarrow"):
            sys.modules.setdefault(name, _Absent(name))
        session: Any = import_module("chdb.session")  # after what it imports

        self._directory = directory
        self._session: Any = session.Session(str(directory))
        self._faults: deque[Mapping[str, str]] = deque()
        self._thread = ThreadPoolExecutor(1)

    async def fault(self, request: web.Request) -> web.Response:
        """Let a request fail."""
        self._faults.append(dict(request.query))
        return web.Response(text="ok")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Carry out a statement."""
        fault = self._faults.popleft() if self._faults else {}
        parameters, body = dict(request.query), await request.read()
        if not fault or "after" in fault:
            run = asyncio.get_running_loop().run_in_executor(self._thread, self._run, parameters, body)
            try:
                form, content = await run
            except Exception as error:  # noqa: BLE001  # chDB's own class
                return _failed(404, str(error))
        if fault.get("status") == "0":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault:
            return _failed(int(fault["status"]), fault.get("text", ""))
        headers = {
            "X-ClickHouse-Format": form,
            "X-ClickHouse-Query-Id": parameters.get("query_id", str(uuid.uuid4())),
            "X-ClickHouse-Server-Display-Name": "chdb",
            "X-ClickHouse-Timezone": "UTC",
            "X-ClickHouse-Summary": json.dumps({"read_rows": "0", "written_rows": "0", "elapsed_ns": "0"}),
        }
        return web.Response(body=content, headers=headers)

    def _run(self, parameters: dict[str, str], body: bytes) -> tuple[str, bytes]:
        query = parameters.get("query", "")
        if not query and _INLINE_INSERT.match(body[:20_000]):
            head, _, body = body.partition(b"\n")
            query = head.decode()
        settings = {name: value for name, value in parameters.items() if name not in _NOT_SETTINGS}
        if database := parameters.get("database"):
            self._session.query(f"use `{database}`")
        if settings:
            self._session.query("set " + ", ".join(f"{name} = {_literal(value)}" for name, value in settings.items()))
        try:
            return self._carry_out(query.strip(), body, parameters.get("default_format", "TabSeparated"))
        finally:
            for name in settings:
                if not name.startswith("param_"):
                    self._session.query(f"set {name} = default")

    def _carry_out(self, query: str, body: bytes, form: str) -> tuple[str, bytes]:
        inserts, named = _INSERT.match(query), _FORMAT.search(query)
        if inserts and named and body:
            with tempfile.NamedTemporaryFile(dir=self._directory, suffix=".in") as file:
                file.write(body)
                file.flush()
                source = f"FROM INFILE '{file.name}' COMPRESSION 'none' FORMAT {named[1]}"
                self._session.query(f"{query[: named.start()]} {source}")
            return form, b""
        if body:
            query = f"{query}\n{body.decode()}".strip()
            inserts, named = _INSERT.match(query), _FORMAT.search(query)
        if named and not inserts:
            form, query = named[1], query[: named.start()]
        return form, self._session.query(query.strip().rstrip(";"), form).bytes() or b""


def _literal(value: str) -> str:
    return value if _NUMBER.fullmatch(value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _failed(status: int, text: str) -> web.Response:
    found = _CODE.search(text)
    code = found[1] if found else "1002"
    if status == 404 and code not in _NOT_THERE:
        status = 500
    return web.Response(status=status, text=text, headers={"X-ClickHouse-Exception-Code": code})


async def _serve(directory: Path) -> None:
    engine = _Engine(directory)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/ping", lambda _: asyncio.sleep(0, web.Response(text="Ok.\n")))
    app.router.add_post("/fault", engine.fault)
    app.router.add_route("*", "/", engine.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until its parent is gone


class ClickHouseServer:
    """A running server. Raises `LookupError` where chDB is not installed."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="callspool-clickhouse-")
        command = [sys.executable, "-m", "bench.clickhouse_server", self._folder.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said.strip().isdecimal():
            self.stop()
            raise LookupError("chDB, the engine of ClickHouse, is not installed here")
        self.port = int(said)

    def url(self, database: str = "default") -> str:
        """Where a client finds it."""
        return f"clickhouse://127.0.0.1:{self.port}/{database}"

    def query(self, statement: str, **parameters: str) -> bytes:
        """Carry out a statement besides a store."""
        options = "&".join(f"{name}={quote(value)}" for name, value in parameters.items())
        address = f"http://127.0.0.1:{self.port}/?{options}"
        with urllib.request.urlopen(address, data=statement.encode(), timeout=60) as response:
            content: bytes = response.read()
        return content

    def fail(self, status: int, text: str = "", *, after: bool = False) -> None:
        """Let the next request fail; with `after`, once it was carried out."""
        late = "&after=1" if after else ""
        address = f"http://127.0.0.1:{self.port}/fault?status={status}&text={quote(text)}{late}"
        urllib.request.urlopen(address, data=b"", timeout=60).close()

    def stop(self) -> None:
        """End it."""
        with self._process:  # closes its pipes, and waits for it
            self._process.kill()
        self._folder.cleanup()


if __name__ == "__main__":
    threading.stack_size(16 << 20)
    asyncio.run(_serve(Path(sys.argv[1])))

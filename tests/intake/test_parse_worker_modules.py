"""The parse worker is a process of 96 MiB: what it imports stays little."""

import json
import subprocess
import sys

_PROGRAM = """
import json, sys
before = set(sys.modules)  # what site and its .pth files load is not ours
import gateway.intake.parse_worker_main
print(json.dumps(sorted(set(sys.modules) - before)))
"""
_ALLOWED = {"gateway", "spool", "uploaders", "msgspec", "zstandard", "isal", "typing_extensions"}
"""Beside the standard library: what reading JSON and measuring its compressed size take."""
_HEAVY = {"asyncio", "ssl", "http", "sqlite3", "logging", "email", "concurrent"}


def test_the_parse_worker_imports_little() -> None:
    """No event loop, web server, logging or configuration is loaded into it."""
    told = subprocess.run([sys.executable, "-P", "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout
    roots = {name.partition(".")[0] for name in json.loads(told)}
    assert roots - set(sys.stdlib_module_names) <= _ALLOWED | {"_cffi_backend"}
    assert not roots & _HEAVY


def test_it_imports_only_the_parser_of_the_gateway() -> None:
    """Of the gateway it needs the call log, the fan-out's two kinds of storage, the parser, and redaction."""
    told = subprocess.run([sys.executable, "-P", "-c", _PROGRAM], capture_output=True, text=True, check=True).stdout
    own = {name for name in json.loads(told) if name.startswith(("gateway.", "spool.", "uploaders."))}
    assert {name for name in own if name.startswith("gateway.intake.")} == {
        "gateway.intake.parse",
        "gateway.intake.parse_worker_main",
        "gateway.intake.redaction",
    }
    assert not {name for name in own if name.startswith(("spool.db", "spool.queue", "spool.store"))}
    assert {name for name in own if name.startswith("uploaders.")} <= {
        "uploaders.document",
        "uploaders.document.options",
        "uploaders.redaction",
        "uploaders.redaction.finders",
        "uploaders.redaction.options",
    }

"""Compares locks with published advisories, by pip-audit; what `make audit` runs.

    python .ci/audit.py [--advisories PATH] [--service osv|pypi] [--osv-url URL] LOCK...

The exit code is 0 where every lock was compared and nothing is known, 1 where something is, and 2 where a lock could
not be compared: that is not the same as sound. `--advisories` is for machines that reach no database: a file or folder
of records in the OSV format, such as the `all.zip` that osv.dev publishes for PyPI, is served on loopback meanwhile.
"""

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Record = Mapping[str, Any]
"""An advisory in the OSV format (https://ossf.github.io/osv-schema/)."""
OLD_DAYS = 30
"""An export of advisories that has nothing newer misses what matters most."""
HINT = (
    "Run this where a database answers, or give it one: make audit ADVISORIES=all.zip, with the export for PyPI that "
    "osv.dev publishes"
)


def records_in(path: Path) -> Iterator[Record]:
    """The advisories of a folder, a zip file, or a file of one or a list."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield from _records(file.read_bytes())
    elif path.suffix == ".zip":
        with ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    yield from _records(archive.read(name))
    else:
        yield from _records(path.read_bytes())


def _records(data: bytes) -> list[Record]:
    read = json.loads(data)
    found = read if isinstance(read, list) else [read]
    if not all(isinstance(each, dict) and "id" in each for each in found):
        raise ValueError("it holds no advisories in the OSV format")
    return found


def affects(record: Record, name: str, version: str) -> bool:
    """Whether an advisory is about this version of a package of PyPI; what it withdrew is about none."""
    if record.get("withdrawn"):
        return False
    return any(
        affected.get("package", {}).get("ecosystem") == "PyPI"
        and canonicalize_name(affected["package"].get("name", "")) == name
        and (version in affected.get("versions", ()) or any(_within(each, version) for each in _ranges(affected)))
        for affected in record.get("affected", ())
    )


def _ranges(affected: Record) -> Iterator[Sequence[Mapping[str, str]]]:
    for each in affected.get("ranges", ()):
        if each.get("type") == "ECOSYSTEM":
            yield each.get("events", ())


def _within(events: Sequence[Mapping[str, str]], version: str) -> bool:
    """Whether a version lies in a range, by the algorithm of the OSV format."""
    try:
        at = Version(version)
        inside = False
        for event in sorted(events, key=lambda each: _moment(next(iter(each.values())))):
            kind, limit = next(iter(event.items()))
            if kind == "introduced" and at >= _moment(limit):
                inside = True
            elif (kind == "fixed" and at >= Version(limit)) or (kind == "last_affected" and at > Version(limit)):
                inside = False
    except InvalidVersion:
        return True
    return inside


def _moment(version: str) -> Version:
    return Version("0.dev0" if version == "0" else version)


@contextmanager
def serving(records: Iterable[Record]) -> Iterator[str]:
    """Answer as OSV's API does, on loopback; gives the address."""
    by_name: dict[str, list[Record]] = {}
    for record in records:
        for affected in record.get("affected", ()):
            by_name.setdefault(canonicalize_name(affected.get("package", {}).get("name", "")), []).append(record)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the library's name
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = canonicalize_name(asked["package"]["name"])
            found = {each["id"]: each for each in by_name.get(name, ()) if affects(each, name, asked["version"])}
            body = json.dumps({"vulns": list(found.values())} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()


def audit(lock: Path, service: Sequence[str]) -> int:
    """Compare one lock, and say what came of it; the exit code of that."""
    command = [
        sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--strict", "--progress-spinner", "off",
        "--format", "json", *service, "--requirement", str(lock),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        print(f"{lock}: not compared: {said[:300]}", file=sys.stderr)
        return 2
    known = [(package, each) for package in packages for each in package["vulns"]]
    if not known:
        print(f"{lock}: {len(packages)} packages, no known vulnerability")
        return 0
    print(f"{lock}: {len(known)} known")
    for package, each in known:
        fixed = ", ".join(each["fix_versions"]) or "no version"
        names = ", ".join([each["id"], *each["aliases"]])
        print(f"  {package['name']} {package['version']}: {names}; fixed in {fixed}: {each['description'][:200]}")
    return 1


def main() -> int:
    """Compare all locks; the worst exit code of them, where 1 counts for more than 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisories", type=Path)
    parser.add_argument("--service", default="osv", choices=["osv", "pypi"])
    parser.add_argument("--osv-url")
    parser.add_argument("locks", nargs="+", type=Path)
    given = parser.parse_args()
    service = ["--vulnerability-service", given.service, *(["--osv-url", given.osv_url] if given.osv_url else [])]
    if given.advisories is None:
        codes = [audit(lock, service) for lock in given.locks]
    else:
        try:
            records = list(records_in(given.advisories))
        except (OSError, ValueError) as error:
            print(f"{given.advisories} cannot be read: {error}", file=sys.stderr)
            return 2
        newest = max((str(each.get("modified", "")) for each in records), default="")
        print(f"{given.advisories}: {len(records)} advisories, the newest of {newest[:10] or 'no day'}")
        if newest < datetime.fromtimestamp(datetime.now(UTC).timestamp() - OLD_DAYS * 86_400, UTC).isoformat():
            print(f"warning: none of {OLD_DAYS} days: fetch a newer export", file=sys.stderr)
        with serving(records) as url:
            codes = [audit(lock, ["--vulnerability-service", "osv", "--osv-url", url]) for lock in given.locks]
    if 2 in codes:
        print(HINT, file=sys.stderr)
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())

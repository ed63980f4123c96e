"""The version of what is built here: a tag `v0.1.0` gives 0.1.0, five commits after it 0.1.1.dev5+g1f0c9d2e.

Where no tag can be seen (a clone without tags, before the first release) it is a development version of `FIRST`; in an
archive of the source, which has no history, the version that was written into it. `RELEASE_VERSION` overrules all of
it, for builds that see neither, such as the image's. hatchling asks for it; `python deploy/version.py` prints it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

FIRST = "0.1.0"
_ROOT = Path(__file__).resolve().parents[1]
_DESCRIBED = re.compile(r"v(\d+)\.(\d+)\.(\d+)-(\d+)-(g[0-9a-f]+)")


def version(root: Path = _ROOT) -> str:
    """The version, as PEP 440 writes it."""
    given = os.environ.get("RELEASE_VERSION")
    if given:
        return given
    described = _git(root, "describe", "--tags", "--long", "--match", "v[0-9]*.[0-9]*.[0-9]*")
    found = _DESCRIBED.fullmatch(described)
    if found is not None:
        major, minor, patch, distance = map(int, found.groups()[:4])
        exact = f"{major}.{minor}.{patch}"
        return exact if distance == 0 else f"{major}.{minor}.{patch + 1}.dev{distance}+{found[5]}"
    archive = root / "PKG-INFO"
    if archive.exists():
        return next(line[9:] for line in archive.read_text("utf-8").splitlines() if line.startswith("Version: "))
    commits, commit = _git(root, "rev-list", "--count", "HEAD"), _git(root, "rev-parse", "--short=8", "HEAD")
    return f"{FIRST}.dev{commits}+g{commit}" if commits and commit else f"{FIRST}.dev0"


def _git(root: Path, *arguments: str) -> str:
    """What git says about this folder; nothing where it is no repository, or git is not here."""
    if not (root / ".git").exists():
        return ""
    try:
        said = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


if __name__ == "__main__":
    sys.stdout.write(f"{version()}\n")

"""A package index on disk, made of empty wheels that ask for what the real ones ask for."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from zipfile import ZipFile, ZipInfo

_WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Index:
    """A folder that pip takes for an index."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._pages = folder / "simple"
        self._files.mkdir(parents=True)

    def add(self, name: str, version: str, requires: Iterable[str] = (), extras: Iterable[str] = ()) -> str:
        """Publish an empty wheel, the same bytes whenever it is made; returns the line that locks it."""
        stem = f"{name.replace('-', '_')}-{version}"
        path = self._files / f"{stem}-py3-none-any.whl"
        metadata = [
            "Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}",
            *(f"Provides-Extra: {extra}" for extra in extras), *(f"Requires-Dist: {line}" for line in requires),
        ]  # fmt: skip
        with ZipFile(path, "w") as wheel:
            wheel.writestr(ZipInfo(f"{stem}.dist-info/METADATA"), "\n".join(metadata) + "\n")
            wheel.writestr(ZipInfo(f"{stem}.dist-info/WHEEL"), _WHEEL)
            wheel.writestr(ZipInfo(f"{stem}.dist-info/RECORD"), "")
        page = self._pages / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("a", encoding="utf-8") as links:
            links.write(f'<a href="{path.as_uri()}">{path.name}</a>\n')
        return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"

    def remove(self, name: str) -> None:
        """Let it have no version of this any more."""
        (self._pages / name / "index.html").unlink()

    def environment(self) -> Mapping[str, str]:
        """Variables with which pip asks this index alone, whatever this machine's configuration says."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "CALLSPOOL_"))}
        return inherited | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self._pages.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
        }

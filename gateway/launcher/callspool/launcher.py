"""Starts the command line with callspool's own folder first on the import path.

The code imports its packages as `config`, `gateway`, `spool` and `uploaders`. These names are common, so they are not
installed beside other people's modules but inside `callspool`, and only this process looks for them there, before it
looks into `PYTHONPATH`, the current directory or site-packages. A `config.py` of the user's own is never found.
"""

import sys
from pathlib import Path

PACKAGES = ("config", "gateway", "spool", "uploaders")
_HERE = Path(__file__).resolve().parent
ROOT = _HERE if (_HERE / "gateway").is_dir() else _HERE.parents[2]
"""The folder that holds the packages: this one where callspool is installed, the repository in a checkout."""


def main() -> None:
    """Run the command line. Exits with a line on stderr where a foreign module holds one of our names already."""
    put_own_folder_first()
    from gateway.cli import main as command_line  # noqa: PLC0415  # only now is it certain which `gateway` this is

    command_line(prog_name="callspool")


def put_own_folder_first() -> None:
    """Let our packages win over all others of their names."""
    for name in PACKAGES:
        origin = _origin(name)
        if origin is not None and not origin.is_relative_to(ROOT):
            sys.exit(
                f"callspool cannot start: {origin} was imported as `{name}` before it, and callspool has a package of "
                "that name. Run callspool in a process of its own; look for the import in sitecustomize and .pth files."
            )
    sys.path.insert(0, str(ROOT))


def _origin(name: str) -> Path | None:
    """Where an imported module comes from; None where it was not imported."""
    module = sys.modules.get(name)
    if module is None:
        return None
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    return Path(places[0] or "").resolve() if places else Path("<unknown>")

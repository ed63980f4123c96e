"""The Compose files, and their services."""

from typing import Any

import yaml

from tests.project.repository import ROOT, text

FOLDER = ROOT / "deploy" / "compose"


def services(name: str) -> dict[str, Any]:
    """Each service of a file."""
    found: dict[str, Any] = yaml.safe_load(text(f"deploy/compose/{name}"))["services"]
    return found

"""The documentation's site, built strictly: no link and no anchor leads nowhere, and nothing is left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.repository import ROOT, tracked

pytest.importorskip("material", reason="make site installs mkdocs-material")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert said.returncode == 0, said.stderr[-4000:]
    return folder


@pytest.mark.slow
def test_every_document_has_its_page(site: Path) -> None:
    """And each decision; what is linked from outside of docs/ is there, too."""
    documents = [path for path in tracked() if path.parts[0] == "docs" and path.suffix == ".md"]
    assert not [path for path in documents if not (site / path.relative_to("docs")).with_suffix(".html").exists()]
    for other in ("CHANGELOG.html", "deploy/prometheus/alerts.yml", "schemas/core.schema.json"):
        assert (site / other).exists()


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own."""
    for page in site.rglob("*.html"):
        found = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(https?://[^\s\">]+)", page.read_text("utf-8"))
        assert not found, page

"""What the documentation's site needs besides the documents: pages from outside of docs/, and links that lead there.

The documents are written to be read in the repository, where links such as `../deploy/prometheus/alerts.yml` lead to
files beside docs/. On the site those files lie below its root, and a folder, which has no page, loses its link.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_PAGES = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
"""Pages of the site that are files outside of docs/."""
_LINK = re.compile(
    r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?!https?://|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show every document: one that mkdocs.yml does not place yet stands below "More"."""
    assert config.nav is not None
    placed = set(re.findall(r"[\w./-]+\.md", repr(config.nav)))
    left = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in placed)
    if left:
        config.nav.append({"More": left})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside, the list of decisions, and every file that a document links to."""
    for name, source in _PAGES.items():
        files.append(File.generated(config, name, content=(_ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "decisions/index.md", content=_decisions()))
    wanted: set[str] = set()
    for file in files.documentation_pages():
        wanted |= {target for _, target in _links(file.src_uri, file.content_string)}
    for target in sorted(wanted):
        if (_ROOT / target).is_file() and files.get_file_from_path(target) is None:
            outside = File.generated(config, target, abs_src_path=str(_ROOT / target))
            outside.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(outside)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links lead to where things are on the site."""
    here = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        target = _target(here, match["path"])
        if target is None:
            return match[0]
        if not (_ROOT / target).is_file():
            index = posixpath.join(target, "index.md")
            if index != "docs/decisions/index.md":
                return match["text"].removeprefix("[").removesuffix("]")
            target = index
        on_site = next((name for name, source in _PAGES.items() if source == target), target.removeprefix("docs/"))
        return f"{match['text']}({posixpath.relpath(on_site, posixpath.dirname(here) or '.')}{match['anchor'] or ''})"

    return _LINK.sub(moved, markdown)


def _links(here: str, markdown: str) -> list[tuple[str, str]]:
    """Each link of a page to something outside of docs/, with its path in the repository."""
    found = [(match["path"], _target(here, match["path"])) for match in _LINK.finditer(markdown)]
    return [(path, target) for path, target in found if target is not None and not target.startswith("docs/")]


def _target(here: str, path: str) -> str | None:
    """The path in the repository that a link of this page leads to; None where nothing is there."""
    source = _PAGES.get(here, f"docs/{here}")
    source = source if (_ROOT / source).exists() else here
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    return target if not target.startswith("..") and (_ROOT / target).exists() else None


def _decisions() -> str:
    """The list of decision records, by their titles."""
    lines = ["# Decisions", "", "What somebody may question later, with what was measured and what was not done.", ""]
    for path in sorted((_ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"

"""The status page: one file that loads nothing from anywhere."""

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and the policy under which browsers run nothing but its own script and style."""

    html: str
    policy: str


def load_page() -> Page:
    """The page as it was installed."""
    html = files("gateway.admin").joinpath("status.html").read_text(encoding="utf-8")
    sources = " ".join(f"{kind}-src {_hash_source(text)};" for kind, text in _INLINE.findall(html))
    policy = f"default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; {sources}"
    return Page(html, policy)


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"

"""File names from ids that strangers chose: pure, and one-to-one.

An id that is already a harmless name stays as it is. Any other has its unusual characters replaced and gets `~` and
a digest: `~` is no harmless character, so that no id can imitate the changed form of another.
"""

import hashlib
import re

KEPT_CHARACTERS = 80
"""Three ids and an ending together stay below the 255 bytes that file systems allow a name."""

_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_UNUSUAL = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


def safe_name(text: str) -> str:
    """A name for `text` in any directory of any common file system; distinct texts have distinct names."""
    if len(text) <= KEPT_CHARACTERS and _HARMLESS.fullmatch(text) and not text.endswith("."):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{_UNUSUAL.sub('_', text).lstrip('-')[: KEPT_CHARACTERS - 20]}~{digest}"

"""Destinations that environment variables alone can add, and the one that `--local` adds.

A further shortcut is a further row in `SHORTCUTS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

LOCAL_NAME = "local"
LOCAL_TYPE = "file"
LOCAL_PATH = Path("callspool-data/delivered")


@dataclass(frozen=True, slots=True)
class Shortcut:
    """Variables that together describe one destination.

    The destination exists as soon as the variable `introduced_by` is set; the others add to it. A destination
    of the same name in the file is added to, not doubled.
    """

    name: str
    type: str
    introduced_by: str
    fields: Mapping[str, str]
    """From each variable to the field that it sets."""
    notifies: str | None = None
    """The type of the destinations one of which it notifies, unless the file says whom."""


SHORTCUTS: tuple[Shortcut, ...] = (
    Shortcut(
        name="endpoint",
        type="http",
        introduced_by="CALLSPOOL_ENDPOINT_URL",
        fields=MappingProxyType({"CALLSPOOL_ENDPOINT_URL": "url", "CALLSPOOL_ENDPOINT_TOKEN": "token"}),
    ),
    Shortcut(
        name="s3",
        type="s3",
        introduced_by="CALLSPOOL_S3_BUCKET",
        fields=MappingProxyType(
            {
                "CALLSPOOL_S3_BUCKET": "bucket",
                "CALLSPOOL_S3_ENDPOINT_URL": "endpoint_url",
                "CALLSPOOL_S3_PREFIX": "prefix",
            }
        ),
        notifies="http",
    ),
)
"""In the order in which they add destinations."""


def shortcut_variable(type_name: str, field: str) -> str | None:
    """The variable that sets this field of a destination of this type, if a shortcut has one."""
    for shortcut in SHORTCUTS:
        for variable, named in shortcut.fields.items():
            if (shortcut.type, named) == (type_name, field):
                return variable
    return None

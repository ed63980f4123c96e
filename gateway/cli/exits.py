"""What scripts hold on to: the exit codes of the command line, and the form of its errors with --json."""

import json
from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of a command means."""

    OK = 0
    """All is well."""
    FAILED = 1
    """The command ran and did not succeed."""
    USAGE = 2
    """The command line or the configuration is wrong."""
    NO_GATEWAY = 3
    """No gateway answers at the admin address."""
    UNKNOWN_CALL = 4
    """The spool knows no call of this id."""
    UNSOUND = 5
    """The spool has something that needs attention."""


EPILOG = (
    "Exit codes: 0 all is well; 1 the command did not succeed; 2 the command line or the configuration is wrong; "
    "3 no gateway answers at the admin address; 4 the spool knows no such call; 5 the spool needs attention."
)
"""Stands at the end of the help."""


WITH_JSON = "callspool.json"
"""Under which click's context says that --json was given."""


def json_line(kind: str, message: str, hint: str = "") -> str:
    """An `error` or a `note` on standard error, with --json: `{"error": {"message": ..., "hint": ...}}`."""
    return json.dumps({kind: {"message": message, "hint": hint}}, ensure_ascii=False)

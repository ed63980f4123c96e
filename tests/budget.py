"""How much the long proof does: `make prove` does all of it, with BUDGET=small a part that takes some minutes."""

import os

FULL = os.environ.get("PROVE_BUDGET", "small") == "full"


def budgeted(*, small: int, full: int) -> int:
    """How many rounds, kills, examples or seconds a proof may take."""
    return full if FULL else small

"""What is wrong with a configuration, in words that say what would be right."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    key: str
    """The setting or variable."""
    advice: str
    """What would be right."""
    value: str | None = None
    """What was given, masked where it is or may be a secret; None where nothing was."""
    origin: str | None = None
    """The file or the variable that it came from."""

    def __str__(self) -> str:
        given = "" if self.value is None else f" = {self.value}"
        origin = "" if self.origin in (None, self.key) else f" (from {self.origin})"
        return f"{self.key}{given}{origin}: {self.advice}"


class InvalidConfiguration(Exception):
    """The configuration cannot be used; `problems` holds everything that is wrong, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(unknown: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Advice about an unknown name: the nearest known one, if any is near. A shared prefix makes no two names near."""
    tails = [name.removeprefix(prefix) for name in known]
    near = difflib.get_close_matches(unknown.removeprefix(prefix), tails, n=1, cutoff=0.6)
    return f"is unknown; did you mean {prefix}{near[0]}?" if near else "is unknown"

"""What goes wrong at the endpoint, and when: the same troubles in both halves of a run, which are compared."""

from dataclasses import dataclass

from bench.endpoint import Fault
from bench.soak.agents import TOKENS

MEASURED_FROM = 0.1
"""The part of a run before, when a new process takes what memory it works with, is in neither half."""
MIDDLE = (1 + MEASURED_FROM) / 2
_LONGEST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that goes wrong, and for what part of the run."""

    name: str
    fault: Fault
    share: float = 0.02

    def seconds(self, run_seconds: float) -> float:
        """How long it lasts in a run of so many seconds."""
        return min(_LONGEST_SECONDS, self.share * run_seconds)


@dataclass(frozen=True, slots=True)
class Moment:
    """What begins when so many seconds of the run are over."""

    at_seconds: float
    trouble: Trouble


FAILURES = (
    '{"errorMessage": "Task timed out after 3.00 seconds", "errorType": "Sandbox.Timedout"}',
    '{"statusCode": 500, "body": "{}"}',
    '{"success": "false"}',
)
"""What services answer with 200 although they took nothing; an answer that is believed is a loss."""
SUCCESSES = (
    ('\ufeff{"success": true}', "application/json"),
    (")]}',\n" + '{"success": true}', "application/json"),
    ("ok", "text/html"),
)
"""What services answer that took it, in odd clothing, with its content type."""

TROUBLES = (
    Trouble("answers 503", Fault("status", 503)),
    Trouble("answers 429", Fault("status", 429, retry_after="1")),
    Trouble("refuses a token", Fault("status", 401, token=TOKENS[1])),
    Trouble("takes no details (413)", Fault("status", 413, "Request Entity Too Large", only="detail")),
    Trouble("refuses records (422)", Fault("status", 422, times=5)),
    Trouble("is redeployed (404)", Fault("status", 404, "Not Found", content_type="text/plain")),
    Trouble("still processes the first attempt (409)", Fault("status", 409, '{"error": "still being processed"}')),
    *(Trouble(f"fails with 200: {body}", Fault("status", 200, body)) for body in FAILURES),
    *(Trouble(f"takes it and says {body!r}", Fault("odd_success", 200, body, kind)) for body, kind in SUCCESSES),
    Trouble("does not answer", Fault("hang")),
    Trouble("cuts connections", Fault("reset")),
)
"""Those that the endpoint makes, in order."""


def timetable(run_seconds: float) -> tuple[Moment, ...]:
    """All troubles twice, with quiet time behind each, and the same in both halves."""
    step = (MIDDLE - MEASURED_FROM) / len(TROUBLES)
    return tuple(
        Moment((begin + number * step) * run_seconds, trouble)
        for begin in (MEASURED_FROM, MIDDLE)
        for number, trouble in enumerate(TROUBLES)
    )

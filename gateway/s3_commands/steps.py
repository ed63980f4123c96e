"""One step of a command and what came of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from uploaders.s3.errors import AccessDenied, NotSupported, S3Failure


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one step."""

    name: str
    ok: bool
    detail: str = ""
    """Why not, and what to do; or what else there is to know."""
    permission: str | None = None
    """What a policy must allow so that this step works, where it is known to be missing."""


async def result_of(name: str, work: Callable[[], Awaitable[str | None]]) -> StepResult:
    """Do it; whatever the server or the way to it says becomes part of the result, and so does what the work says."""
    try:
        told = await work()
    except AccessDenied as denied:
        return StepResult(name, False, str(denied), denied.permission)
    except NotSupported as failure:
        return StepResult(name, False, f"{failure.operation}: this server does not know it")
    except S3Failure as failure:
        return StepResult(name, False, str(failure))
    return StepResult(name, True, told or "")

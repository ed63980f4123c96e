"""How considerate the draining of details is: of the line, and of the calls that are live on the same machine."""

from typing import Annotated

from pydantic import Field

from config.units import HOUR, KIB
from config.values import Duration, OptionalSize, Table


class DrainSettings(Table):
    """What details may take, all destinations together. Cores never wait."""

    max_bytes_per_second: OptionalSize = None
    """The most that details take of the line, all destinations together, in bytes a second; cores are counted too."""
    when_idle: bool = False
    """Whether details are sent slowly while a call is live, and catch up afterwards."""
    live_bytes_per_second: OptionalSize = 256 * KIB
    """With `when_idle`: the most that details take while a call is live, all destinations together."""
    live_concurrency: Annotated[int, Field(ge=1)] = 1
    """With `when_idle`: details under way at once while a call is live, for each destination."""
    live_max_age: Duration = 2 * HOUR
    """With `when_idle`: a call that began longer ago, and has not ended, is not live any more."""

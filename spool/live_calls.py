"""Plain data of live calls: what is known of a call before its end, from heartbeats and turns."""

from msgspec import Struct


class NewTurn(Struct, frozen=True):
    """One turn of a conversation, as its agent posted it."""

    turn: str
    """What makes it the same turn when it is posted again: it then takes the place of the first."""
    place: int | None
    """Its place in the conversation, where its agent says that; the others follow in the order in which they came."""
    data: bytes
    """A JSON object."""


class HeardCall(Struct, frozen=True):
    """What a post says of a call that is going on."""

    call_id: str
    principal: str
    agent_id: str | None = None
    about: bytes | None = None
    """Members of a call log, as JSON without the braces around them; they take the place of those before."""
    started_at: int | None = None
    """When it began, by its agent's own times. It is another call than one of this id that ended before."""
    turns: tuple[NewTurn, ...] = ()


class LiveCall(Struct):
    """A call that is going on, or whose agent was lost not long ago. Times in milliseconds, sizes in bytes."""

    call_id: str
    principal: str
    agent_id: str | None
    started_at: int | None
    first_at: int
    last_at: int
    """When it was heard of last."""
    turns: int
    raw_bytes: int
    """Of its turns, and of what its agent says of it."""
    version: int
    """Grows with everything that is written of it."""
    open: bool
    """Whether its agent is not lost."""


class LostCall(Struct, frozen=True):
    """A live call, in the version that a call log was made of."""

    call_id: str
    principal: str
    version: int

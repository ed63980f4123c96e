"""The settings of pipelines, which process calls after they ended."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from config.destinations.base import DestinationTable, Events, LaneConcurrency
from config.types import (
    Choice,
    Duration,
    Endpoint,
    HeaderToken,
    Shown,
    Table,
)
from config.values import MINUTE, crosses_network_in_clear, mask_address
from uploaders.pipeline.options import Runs, Summaries, VectorsIn, leaves_machine

CALLBACK_DUE = "callback_due"
OPENAI = "https://api.openai.com/v1"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def checked_zone(value: str | None) -> str | None:
    """The name of a time zone. Raises ValueError for one that is not known here."""
    if value is not None:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                "should be a time zone, such as Europe/Berlin (needs tzdata where the system has none)"
            ) from None
    return value


def _days(value: object) -> tuple[str, ...]:
    """Days of the week from a list, or from a text with commas."""
    given = value.split(",") if isinstance(value, str) else value
    words = tuple(str(each).strip().lower()[:3] for each in given) if isinstance(given, list | tuple) else ()
    if not words or not set(words) <= set(_DAYS):
        raise ValueError(f"should be a list of {', '.join(_DAYS)}")
    return tuple(day for day in _DAYS if day in words)


def _model(value: object) -> object:
    """The name of a model; an empty one for `none`."""
    return "" if isinstance(value, str) and value.strip().lower() in {"none", "off"} else value


ModelName = Annotated[str, BeforeValidator(_model), Shown(lambda name: name or "none")]
Days = Annotated[tuple[str, ...], BeforeValidator(_days), Shown(", ".join)]


class VectorSettings(Table):
    """Where vectors are kept."""

    where: Annotated[VectorsIn, Choice] = VectorsIn.STORE
    """`store` (SQLite, or PostgreSQL with pgvector), `qdrant` or `pinecone`."""
    url: Endpoint | None = Field(default=None, repr=False)
    """Of Qdrant (`http://qdrant:6333`), or of the index at Pinecone (`https://calls-abc.svc.pinecone.io`)."""
    token: HeaderToken | None = None
    """The API key there."""
    collection: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "calls"
    """The collection in Qdrant; it is created if missing."""
    timeout: Duration = 10.0
    """Time for one request."""

    @field_validator("url")
    @classmethod
    def _elsewhere_has_an_address(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None and info.data.get("where", VectorsIn.STORE) is not VectorsIn.STORE:
            raise ValueError(f'is needed with `where = "{info.data["where"]}"`')
        return url


class CallbackSettings(Table):
    """Calling back callers who request it: each callback becomes a call log `callback_due`."""

    enabled: bool = False
    """Whether to look for callbacks. Some destination should subscribe to `callback_due`."""
    zone: str = "UTC"
    """The time zone of callers and of the hours below, such as `Europe/Berlin`; a tenant may have its own."""
    first_hour: Annotated[int, Field(ge=0, le=23)] = 9
    """The first hour in which calls are made."""
    last_hour: Annotated[int, Field(ge=1, le=24)] = 18
    """No calls are made at this hour or later."""
    days: Days = _DAYS[:5]
    """Days of the week on which calls are made."""
    per_number_and_day: Annotated[int, Field(ge=1, le=100)] = 3
    """The most callbacks to one number in a day."""

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        return checked_zone(zone) or zone

    @field_validator("last_hour")
    @classmethod
    def _hours_are_some(cls, last: int, info: ValidationInfo) -> int:
        if last <= info.data.get("first_hour", 0):
            raise ValueError("should be after `first_hour`")
        return last


class PipelineDestination(DestinationTable):
    """Processing of calls after they ended: a summary, a vector to find similar ones, callbacks."""

    type: Literal["pipeline"]
    """`pipeline`: works on calls in a store; its own models need `pip install callspool[pipeline]`."""
    events: Events = ("call_ended", "call_complete", "call_analyzed")
    """The events whose calls are processed; a call without new content is not processed again."""
    runs: Annotated[Runs, Choice] = Runs.LOCAL
    """`local`: this gateway works on the calls; `queue`: it queues them for others with the same store."""
    store: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] | None = None
    """The store for queue and results, of type sqlite or postgres; by default the first of these."""
    workers: Annotated[int, Field(ge=1, le=1000)] = 5
    """The most calls worked on at once."""
    summary: Annotated[Summaries, Choice] = Summaries.PROVIDER_FIRST
    """`provider_first`: the provider's where there is one, else a model's, else sentences of the call; `llm`: always a
    model's; `extractive`: never a model's."""
    base_url: Endpoint | None = Field(default=None, repr=False)
    """An OpenAI-compatible server; by default OpenAI's if there is a `token`, else none: local models."""
    token: HeaderToken | None = None
    """The API key there."""
    chat_model: ModelName = "gpt-4o-mini"
    """The model for summaries; `none`: no model."""
    embedding_model: ModelName = "text-embedding-3-small"
    """The model for vectors; `none`: the local one."""
    dimensions: Annotated[int, Field(ge=8, le=16_000)] = 1536
    """Length of the server's vectors."""
    timeout: Duration = MINUTE
    """Time for one answer of a model."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Model requests of one tenant; by default unlimited."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Model tokens of one tenant; by default unlimited."""
    answers_per_day: Annotated[int, Field(ge=0)] | None = None
    """Paid model answers of one tenant in a day (UTC); further calls are summarised without a model."""
    redact: bool = True
    """Whether numbers, names and addresses are masked in requests that leave this machine."""
    vectors: VectorSettings = Field(default_factory=VectorSettings)
    """Where vectors are kept."""
    callbacks: CallbackSettings = Field(default_factory=CallbackSettings)
    """Calling back callers who request it."""
    concurrency: LaneConcurrency = Field(default_factory=lambda: LaneConcurrency(core=1, detail=1))
    """Batches that are queued at once, for each lane."""

    @property
    def target(self) -> str:
        """See `DestinationTable`."""
        server = self.server_url
        return "its own models" if server is None else mask_address(server)

    @property
    def server_url(self) -> str | None:
        """The model server; None if there is none."""
        return self.base_url or (OPENAI if self.token else None)

    def warnings(self, *, core_max_bytes: int) -> Iterator[str]:
        """See `DestinationTable`."""
        yield from super().warnings(core_max_bytes=core_max_bytes)
        named = f"destinations[{self.name}]"
        server = self.server_url
        if server is not None and leaves_machine(server) and not self.redact:
            yield f"{named}.redact is off: transcripts go to {mask_address(server)} as they were spoken"
        if server is not None and crosses_network_in_clear(server):
            yield f"{named}.base_url is not https: transcripts cross the network readable by anyone on the way"


def pipeline_fault(destinations: tuple[Any, ...]) -> str | None:  # Any: the union of all destinations
    """The problem of pipelines, or of destinations that they need; None if there is none."""
    stores = [each.name for each in destinations if each.type in {"sqlite", "postgres"}]
    pipelines = [each for each in destinations if isinstance(each, PipelineDestination)]
    if len(pipelines) > 1:
        return "there is one pipeline at most: its tables are those of the store"
    for each in pipelines:
        if not stores:
            return "a pipeline needs a store of type sqlite or postgres: set CALLSPOOL_DATABASE_URL"
        if each.store is not None and each.store not in stores:
            return f"destinations[{each.name}].store should be the name of a store: {', '.join(stores)}"
        told = any(other.events and CALLBACK_DUE in other.events for other in destinations)
        if each.callbacks.enabled and not told:
            return f'destinations[{each.name}].callbacks need a destination with events = ["{CALLBACK_DUE}"]'
    return None

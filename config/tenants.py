"""The settings of tenants: their agents, tokens and destinations."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from config.destinations.pipeline import checked_zone
from config.privacy import RedactionSettings
from config.types import (
    Duration,
    HeaderToken,
    Shown,
    Table,
    Tokens,
)

UNASSIGNED: Final = "unassigned"
"""What call logs belong to that no tenant claims (`gateway.tenants`)."""


def _texts(value: object) -> tuple[str, ...]:
    """Texts from a list, or one."""
    given = (value,) if isinstance(value, str) else value
    texts = tuple(given) if isinstance(given, list | tuple) else ("",)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("should be a list of texts")
    return texts


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), Shown(lambda texts: ", ".join(texts) or "none")]


class TenantSettings(Table):
    """One tenant: `[tenants.NAME]`."""

    agents: Texts = ()
    """Its agents: ids, or patterns such as `acme-*`."""
    token: Tokens = ()
    """Tokens that its agents present at the intake, as `x-pype-token` or as a bearer; then every post needs one."""
    read_token: Tokens = ()
    """Tokens of the admin listener that show the calls of this tenant, and nothing else."""
    destinations: Texts = ()
    """Names of destinations that are its own: they get call logs of the tenants that name them only."""
    endpoint_token: HeaderToken | None = None
    """Sent instead of the agents' own tokens to destinations that forward these."""
    posts_per_second: Annotated[float, Field(gt=0)] | None = None
    """How much its agents may post; above it the response is 429 with `Retry-After`. By default unlimited."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Its share of a destination's slots beside other tenants that have something to send."""

    quota_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of `spool.max_bytes` that its call logs may use; above it, posts get 507, or 503 to providers."""
    receipts_keep: Duration | None = None
    """How long receipts of its call logs are kept; by default `spool.receipts_keep`."""
    expire_after: Duration | None = None
    """Its call logs older than this are given up; by default `spool.expire_after`. Dead letters stay."""
    dead_keep: Duration | None = None
    """Its dead letters older than this are given up; by default `spool.dead_keep`."""
    calls_keep: Duration | None = None
    """How long stores keep its calls; by default `keep` of each."""
    llm: bool = True
    """Whether a pipeline may give its transcripts to models on other machines."""
    zone: Annotated[str | None, AfterValidator(checked_zone)] = None
    """The time zone of its callbacks, such as `Europe/Berlin`; by default that of the pipeline."""

    redaction: RedactionSettings | None = None
    """Redaction rules for its call logs, instead of `[redaction]`; `{}`: none."""


def tenant_faults(
    tenants: Mapping[str, TenantSettings], destinations: Collection[str], of_sources: Collection[str | None]
) -> Iterator[str]:
    """Problems of the table as a whole."""
    for unknown in {name for name in of_sources if name is not None} - tenants.keys():
        yield f"a source brings the calls of tenants.{unknown}, which is not there"
    holders: dict[str, str] = {}
    for name, tenant in tenants.items():
        if not (0 < len(name) <= 32 and all(each.isascii() and (each.isalnum() or each in "_-") for each in name)):
            yield f"tenants.{name[:40]} should be called by 1 to 32 letters, digits, `_` and `-`"
        if name == UNASSIGNED:
            yield f"tenants.{UNASSIGNED} is what call logs belong to that no tenant claims: it needs another name"
        for wanted in tenant.destinations:
            if wanted not in destinations:
                yield f"tenants.{name}.destinations names {wanted}, which is no destination"
        for token in (*tenant.token, *tenant.read_token):
            other = holders.setdefault(token.get_secret_value(), name)
            if other != name:
                yield f"tenants.{name} has a token that tenants.{other} has too: whose it is must be clear"

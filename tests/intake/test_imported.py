"""Whose a dead letter is that is imported: the same tenant's as before it was exported."""

import asyncio
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.operations.schemas import Document, ImportHeader
from gateway.operations.selection import Accepts, BadSelection
from gateway.operations.transfer import DeadLetterImporter
from gateway.tenants import Tenant, TenantTable
from spool.payload.frames import encode
from spool.records import DeliveryState, Form, OwnedCall
from tests.intake.running_intake import RunningIntake, running

TENANTS = TenantTable([Tenant("acme", ("sales",), endpoint_token="for-acme"), Tenant("other")])


async def imported(
    world: RunningIntake, tenant: str | None, agent_id: str | None, of: frozenset[str] | None = None
) -> None:
    takes = {"endpoint": Accepts(frozenset(Form), ordered=True, tenants=of)}
    importer = DeadLetterImporter(world.spool, world.intake.staging, takes, world.intake.acceptor)
    packed = encode(b'{"call_id": "c"}')
    document = Document(form=Form.WHOLE, bytes=len(packed), sha256=sha256(packed).hexdigest())
    header = ImportHeader(
        to="endpoint", record_id="gone-1", call_id="c", agent_id=agent_id, event="call_ended", environment=None,
        documents=(document,), key="operators-key", tenant=tenant,
    )  # fmt: skip
    source = asyncio.StreamReader()
    source.feed_data(packed)
    source.feed_eof()
    await importer.import_record(header, source)  # type: ignore[arg-type]  # of aiohttp


@pytest.mark.parametrize(
    ("tenant", "agent_id", "whose", "token"),
    [
        ("acme", None, "acme", "for-acme"),
        ("other", "sales", "other", "operators-key"),
        (None, "sales", "acme", "for-acme"),
        ("unassigned", "sales", "acme", "for-acme"),
        ("elsewhere", None, "unassigned", "operators-key"),
    ],
)
async def test_a_dead_letter_is_its_tenants(
    tmp_path: Path, tenant: str | None, agent_id: str | None, whose: str, token: str
) -> None:
    """The one that its index names; else, and where that is not configured here, the one that its agent belongs to."""
    async with running(tmp_path, tenants=TENANTS) as world:
        await imported(world, tenant, agent_id)
        record = (await world.only_record("c")).record
        assert (record.tenant, record.principal) == (whose, f"tenant:{whose}")
        assert await world.spool.token(record.token_id or 0) == token


async def test_what_was_erased_of_its_tenant_is_not_imported(tmp_path: Path) -> None:
    """An export is older than the order; the same call of another tenant is imported."""
    async with running(tmp_path, tenants=TENANTS) as world:
        await world.spool.erasures.order([OwnedCall("c", "acme")])
        with pytest.raises(BadSelection, match="erased by order"):
            await imported(world, "acme", None)
        await imported(world, "other", None)


async def test_a_tenants_own_destination_gets_nobody_elses_dead_letter(tmp_path: Path) -> None:
    """Another's is refused; one that belongs to nobody is held there, as a post would be."""
    async with running(tmp_path, tenants=TENANTS) as world:
        with pytest.raises(BadSelection, match="another tenant: the call log is that of other"):
            await imported(world, "other", None, frozenset({"acme"}))
        assert await world.spool.trace("c") == ()
        await imported(world, None, None, frozenset({"acme"}))
        [held] = (await world.only_record("c")).deliveries
        assert held.state is DeliveryState.HELD

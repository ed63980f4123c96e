"""Whose call log is whose: agents, tokens and rates."""

import pytest

from gateway.tenants import Tenant, TenantTable, digest_of

TABLE = TenantTable(
    [
        Tenant("acme", ("sales", "acme-*"), frozenset({digest_of("token-of-acme")})),
        Tenant("emea", ("acme-emea-*", "team-[0-9]*-eu"), posts_per_second=2.0),
    ]
)


@pytest.mark.parametrize(
    ("agent", "tenant"),
    [
        ("sales", "acme"),
        ("acme-1", "acme"),
        ("acme-", "acme"),
        ("acme-emea-1", "emea"),
        ("team-7-eu", "emea"),
        ("team-x-eu", None),
        ("sales-2", None),
        ("", None),
        (None, None),
    ],
)
def test_an_agent_belongs_to_a_tenant_by_its_id_its_beginning_or_a_pattern(
    agent: str | None, tenant: str | None
) -> None:
    """The exact id wins, then the longest beginning, then the first pattern; any other agent is nobody's."""
    assert TABLE.of_agent(agent) == tenant


def test_a_token_is_its_tenants_alone() -> None:
    """Only the whole token counts; None and any other belong to nobody."""
    tokens = ["token-of-acme", "token-of-acm", "", None, "\ud800"]
    assert [TABLE.of_token(token) for token in tokens] == ["acme", None, None, None, None]


def test_an_assigned_agent_is_what_the_configuration_does_not_say_otherwise() -> None:
    """What the configuration says of an agent wins, and a tenant that is gone gets nothing."""
    table = TenantTable([Tenant("acme", ("sales",)), Tenant("other")])
    table.assign([("sales", "other"), ("new", "other"), ("lost", "gone")])
    assert [table.of_agent(agent) for agent in ("sales", "new", "lost")] == ["acme", "other", None]


def test_an_agent_that_is_assigned_anew_belongs_to_the_other_tenant_at_once() -> None:
    """Whoever gave it to the wrong tenant corrects that without a restart."""
    table = TenantTable([Tenant("acme"), Tenant("other")])
    table.assign([("new", "acme")])
    table.assign([("new", "other")])
    assert table.of_agent("new") == "other"


def test_a_tenant_posts_as_fast_as_it_may() -> None:
    """A second's worth at once, then one after the other; who may post without a limit never waits, nor does it cost
    the others anything."""
    table = TenantTable([Tenant("slow", posts_per_second=2.0), Tenant("free")])
    waits = [table.seconds_until_admitted("slow", 100.0) for _ in range(5)]
    assert waits == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert table.seconds_until_admitted("slow", 100.5) == 0.0
    assert [table.seconds_until_admitted(name, 100.0) for name in ("free", "unassigned")] == [0.0, 0.0]

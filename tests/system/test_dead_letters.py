"""Dead letters and held deliveries, from a refusal to their end, with a real gateway, endpoint and command line."""

from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from tests.system import preloaded
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

LARGE = 6_000_000


def a_gateway(folder: Path, *endpoints: tuple[str, Endpoint]) -> GatewayProcess:
    """It delivers only to the first of these endpoints, and knows them all."""
    return GatewayProcess(folder / "gateway", settings=tables_of(*endpoints))


def tables_of(*endpoints: tuple[str, Endpoint]) -> str:
    tables = [
        f'[[destinations]]\nname = "{name}"\ntype = "http"\nurl = "{endpoint.url}"\n'
        'retry = { initial = "0.1s", max = "0.2s" }\n'
        for name, endpoint in endpoints
    ]
    return "\n".join(tables)


async def callspool(gateway: GatewayProcess, *arguments: str, stdin: bytes = b"") -> str:
    """Run the command against the gateway; returns what it printed."""
    admin = ("--admin", gateway.admin_url.removeprefix("http://"))
    code, out = await preloaded.run(*arguments, *admin, environment=gateway.operators_environment, stdin=stdin)
    assert code == 0, out.decode()
    return out.decode()


async def post(gateway: GatewayProcess, call_id: str, size: int = 2_000, key: str = "k") -> None:
    reply = await gateway.post(make_call_log(size, seed=1, call_id=call_id), headers={"x-pype-token": key})
    assert reply.status == 202


async def dead(gateway: GatewayProcess) -> int:
    return sum(int(each["dead"]) for each in (await gateway.status())["destinations"])


@pytest.mark.slow
async def test_dead_letters_are_looked_at_and_sent_again(tmp_path: Path) -> None:
    """What was refused is listed with its reason, and after the repair delivered in order under its old keys."""
    async with Endpoint(fault=Fault("status", 400)) as endpoint, a_gateway(tmp_path, ("endpoint", endpoint)) as gateway:
        await post(gateway, "small")
        await post(gateway, "large", LARGE)

        async def both() -> bool:
            """The whole of the one, the core of the other."""
            return await dead(gateway) == 2

        await until(both, "both became dead letters")
        refused = {arrival.key for arrival in endpoint.arrivals}
        assert "made to fail" in await callspool(gateway, "dead", "list")
        written = tmp_path / "core.json"
        await callspool(gateway, "dead", "show", "large", "--payload", str(written))
        assert b'"summary_metrics"' in written.read_bytes()
        endpoint.set_fault(Fault())
        assert "Replayed 2 dead letters." in await callspool(gateway, "dead", "replay", "--reason", "made to fail")
        await endpoint.wait_for(3)
        await gateway.delivered()
        assert [one.kind for one in endpoint.accepted if one.call_id == "large"] == ["core", "detail"]
        assert refused < {one.key for one in endpoint.accepted}
        assert (await dead(gateway), await gateway.metric("callspool_unaccounted_records")) == (0, 0.0)


@pytest.mark.slow
async def test_what_is_owed_to_a_destination_that_is_gone_finds_another(tmp_path: Path) -> None:
    """A destination is taken out of the configuration: what it was still owed goes to another one, core first."""
    async with Endpoint(fault=Fault("status", 500)) as old, Endpoint() as new:
        async with a_gateway(tmp_path, ("old", old)) as gateway:
            await post(gateway, "large", LARGE)
            assert await gateway.hurry() == 0
            gateway.configure(tables_of(("new", new)))
            await gateway.start()
            moved = await callspool(gateway, "deliveries", "reroute", "--to", "new", "--destination", "old")
            assert "Moved to new: 2 deliveries." in moved
            await new.wait_for(2)
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
        assert [one.kind for one in new.accepted] == ["core", "detail"]


@pytest.mark.slow
async def test_another_key_frees_what_was_held(tmp_path: Path) -> None:
    """What an endpoint refused for its key is delivered with another one, at once, and neither is ever shown."""
    async with Endpoint(token="good-key") as endpoint, a_gateway(tmp_path, ("endpoint", endpoint)) as gateway:
        for number in range(3):
            await post(gateway, f"call-{number}", key="wrong-key")

        async def all_held() -> bool:
            """None is on its way any more."""
            (destination,) = (await gateway.status())["destinations"]
            return bool(destination["lanes"][0]["held"] == 3)

        await until(all_held, "all are held")
        shown = await callspool(gateway, "deliveries", "list", "--state", "held")
        said = await callspool(gateway, "deliveries", "replace-token", "--all", "--key", "-", stdin=b"good-key\n")
        assert "Another key was given to 3 deliveries." in said
        await endpoint.wait_for(3)
        await gateway.delivered()
        assert {one.token for one in endpoint.accepted} == {"good-key"}
        assert not any(key in shown + said + gateway.log for key in ("good-key", "wrong-key"))

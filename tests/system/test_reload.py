"""Reload: a real gateway gets other settings while agents post and deliveries are under way."""

import asyncio
import base64
import signal
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

DESTINATION = """
[intake]
token = "{token}"
[[destinations]]
name = "{name}"
type = "http"
url = "{url}"
token = "their-key"
"""


async def posted(gateway: GatewayProcess, number: int, token: str) -> int:
    body = make_call_log(2_000, seed=number, call_id=f"c{number}")
    return (await gateway.post(body, headers={"x-pype-token": token})).status


@pytest.mark.slow
async def test_other_settings_are_applied_whole_and_lose_nothing(tmp_path: Path) -> None:
    """By SIGHUP and by command: a destination is replaced and a token changes while posts come in; each is acknowledged
    by the old or the new settings, and all of them are delivered; what is wrong or needs a restart changes nothing."""
    file = tmp_path / "callspool.toml"
    async with Endpoint() as first, Endpoint() as second:
        file.write_text(DESTINATION.format(token="one", name="a", url=first.url))
        async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)}) as gateway:
            statuses: list[int] = []
            stopping = asyncio.Event()

            async def talk() -> None:
                number = 100
                while not stopping.is_set():
                    statuses.append(await posted(gateway, number, "two" if number % 2 else "one"))
                    number += 1

            assert await posted(gateway, 1, "one") == 202
            await first.wait_for(1)
            talking = asyncio.create_task(talk())
            text = DESTINATION.format(token="one", name="a", url=first.url)
            file.write_text(text + DESTINATION.format(token="two", name="b", url=second.url).partition('two"')[2])
            gateway.process.send_signal(signal.SIGHUP)

            async def reaches_second() -> bool:
                if talking.done():
                    await talking  # it was cut off
                return bool(second.accepted)

            await until(reaches_second, "the new destination gets call logs", deadline=20)
            file.write_text(DESTINATION.format(token="two", name="b", url=second.url))
            assert b"being applied" in await gateway.command("reload", *gateway.admin)

            async def knows_the_token() -> bool:
                return await posted(gateway, 2, "two") == 202

            await until(knows_the_token, "the new token is accepted", deadline=20)
            stopping.set()
            await talking
            assert await posted(gateway, 3, "one") == 401
            assert set(statuses) <= {202, 401, 503}
            for wrong in ('[intake]\ntoken = "two"', file.read_text() + '[log]\nlevel = "debug"\n'):
                file.write_text(wrong)
                with pytest.raises(AssertionError, match="Nothing was applied"):
                    await gateway.command("reload", *gateway.admin)
            assert await posted(gateway, 4, "two") == 202
            await second.wait_until(lambda: "c4" in {arrival.call_id for arrival in second.accepted})
            assert await gateway.metric("callspool_unaccounted_records") == 0
            assert {one["name"] for one in (await gateway.status())["destinations"] if one["configured"]} == {"b"}


@pytest.mark.slow
async def test_a_reload_during_another_one_is_applied_with_it(tmp_path: Path) -> None:
    """Both wait for the same delivery: the gateway starts once, with the settings of the second."""
    file = tmp_path / "callspool.toml"
    async with Endpoint(fault=Fault("hang")) as endpoint:

        async def reload(token: str) -> None:
            file.write_text(DESTINATION.format(token=token, name="a", url=endpoint.url))
            await gateway.command("reload", *gateway.admin)

        async def under_way() -> bool:
            (only,) = (await gateway.status())["destinations"]
            return any(lane["in_flight"] for lane in only["lanes"])

        file.write_text(DESTINATION.format(token="one", name="a", url=endpoint.url))
        async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)}) as gateway:
            assert await posted(gateway, 1, "one") == 202
            await until(under_way, "the endpoint keeps a delivery waiting")
            await reload("two")
            await reload("three")
            endpoint.set_fault(Fault())
            await until(lambda: accepts(gateway, "three"), "the newest token is accepted", deadline=20)
            await reload("four")
            await until(lambda: accepts(gateway, "four"), "the next one is, too", deadline=20)
            await until(lambda: has_started(gateway, 3), "the gateway runs")


async def accepts(gateway: GatewayProcess, token: str) -> bool:
    return await posted(gateway, 2, token) == 202


async def has_started(gateway: GatewayProcess, times: int) -> bool:
    """So often, and not once more."""
    started = len(gateway.events("running"))
    assert started <= times
    return started == times


@pytest.mark.slow
async def test_a_changed_file_reloads_by_itself_where_that_is_asked_for(tmp_path: Path) -> None:
    """As Kubernetes does it, a link to the folder of configuration and secrets is swapped: the new secret is read, and
    the old one is refused; a file that is wrong changes nothing, and one that is right again is applied."""

    def mounted(version: int, token: str, more: str = "") -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        secret = tmp_path / "..data" / "token"
        (folder / "callspool.toml").write_text(
            f'[reload]\non_change = true\n[intake]\ntoken_file = "{secret}"\n[[destinations]]\nname = "a"\n'
            f'type = "http"\nurl = "{endpoint.url}"\ntoken = "their-key"\n{more}'
        )
        (folder / "token").write_text(token)
        (tmp_path / "..new").symlink_to(folder.name)
        (tmp_path / "..new").replace(tmp_path / "..data")

    async with Endpoint() as endpoint:
        mounted(1, "first-token")
        environment = {"CALLSPOOL_CONFIG": str(tmp_path / "..data" / "callspool.toml")}
        async with GatewayProcess(tmp_path / "gateway", environment) as gateway:

            async def knows(token: str) -> bool:
                return await posted(gateway, 1, token) == 202

            async def refused() -> bool:
                return bool(gateway.events("reload_refused"))

            assert await knows("first-token")
            mounted(2, "second-token")
            await until(lambda: knows("second-token"), "the new secret is read", deadline=20)
            assert not await knows("first-token")
            mounted(3, "third-token", "nonsense = 1")
            await until(refused, "what is wrong is refused", deadline=20)
            assert await knows("second-token")
            mounted(4, "fourth-token")
            await until(lambda: knows("fourth-token"), "what is right again is read", deadline=20)
            assert len(gateway.events("files_changed")) == 3


@pytest.mark.slow
async def test_a_secret_that_comes_after_the_settings_that_name_it_is_read(tmp_path: Path) -> None:
    """The settings are refused without it, and applied once it is there."""
    file, secret = tmp_path / "callspool.toml", tmp_path / "token"
    text = '[reload]\non_change = true\n[[destinations]]\nname = "a"\ntype = "http"\nurl = "http://127.0.0.1:9/"\n'
    file.write_text(text)
    async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)}) as gateway:

        async def refused() -> bool:
            return bool(gateway.events("reload_refused"))

        async def applied() -> bool:
            return await posted(gateway, 1, "another") == 401

        file.write_text(f'{text}\n[intake]\ntoken_file = "{secret}"\n')
        await until(refused, "the secret is missing", deadline=20)
        secret.write_text("secret-token")
        secret.chmod(0o600)
        await until(applied, "the secret is read", deadline=20)
        assert await posted(gateway, 2, "secret-token") == 202


@pytest.mark.slow
async def test_settings_that_the_spool_cannot_be_opened_with_leave_those_before(tmp_path: Path) -> None:
    """A reload without the key that the spool is encrypted with: the gateway goes on with the key, and takes posts."""
    file, keys = tmp_path / "callspool.toml", tmp_path / "keys"
    keys.write_text(base64.b64encode(bytes(32)).decode())
    keys.chmod(0o600)
    destination = DESTINATION.format(token="one", name="a", url="http://127.0.0.1:9/")  # where nobody listens
    file.write_text(f'[spool]\nkey_file = "{keys}"\n{destination}')
    async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)}) as gateway:
        assert await posted(gateway, 1, "one") == 202
        keys.write_text(base64.b64encode(b"\1" * 32).decode())
        gateway.process.send_signal(signal.SIGHUP)

        async def was_given_up() -> bool:
            assert gateway.alive, gateway.log
            return bool(gateway.events("reload_failed"))

        await until(was_given_up, "the reload is given up", deadline=20)

        async def takes_posts() -> bool:
            return await posted(gateway, 2, "one") == 202

        await until(takes_posts, "posts are accepted again", deadline=20)
        (destination,) = (await gateway.status())["destinations"]
        assert sum(lane["queued"] for lane in destination["lanes"]) == 2

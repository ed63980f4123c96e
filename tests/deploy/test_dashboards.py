"""The Grafana dashboards: generated, of metrics that there are, and by a Prometheus that scrapes a real gateway."""

import asyncio
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.calllogs import make_call_log
from deploy.dashboards import DASHBOARDS, Panel, document, files, panels
from tests.project.surface import metrics
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

EXPRESSIONS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in panels(dashboard)]
PROMETHEUS = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: callspool
    static_configs: [{{targets: ["{target}"]}}]
"""


def test_the_dashboards_are_what_their_generator_writes() -> None:
    """Whoever changes one changes the generator, and runs it."""
    wanted = dict(files())
    assert {path: path.read_text(encoding="utf-8") for path in wanted} == wanted, "run `python -m deploy.dashboards`"


@pytest.mark.parametrize(("name", "panel"), EXPRESSIONS, ids=[f"{name}: {panel.title}" for name, panel in EXPRESSIONS])
def test_a_panel_shows_metrics_that_there_are(name: str, panel: Panel) -> None:
    """A panel of a metric that nobody writes is empty for ever; each says what it means."""
    series = {f"{each}_bucket" for each, (kind, _) in metrics().items() if kind == "histogram"}
    used = {word for expression, _ in panel.series for word in re.findall(r"\bcallspool_\w+", expression)}
    assert used <= metrics().keys() | series
    assert used or "up{" in panel.series[0][0]
    assert panel.about.endswith((".", "?"))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    """Each has its own place within the 24 columns of Grafana, and an id of its own."""
    placed = list(everything(document(DASHBOARDS[name])["panels"]))
    cells = [
        (x, y)
        for each in placed
        for x in range(each["gridPos"]["x"], each["gridPos"]["x"] + each["gridPos"]["w"])
        for y in range(each["gridPos"]["y"], each["gridPos"]["y"] + each["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({each["id"] for each in placed}) == len(placed)


def everything(placed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in placed:
        yield each
        yield from everything(each.get("panels", []))


@pytest.mark.slow
async def test_prometheus_answers_each_panel(tmp_path: Path) -> None:
    """A real one scrapes a real gateway, and each expression gives series; those of parts that are not in use are valid
    and give none."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not here: it is in the package of that name of distributions")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayProcess(tmp_path / "gateway", arguments=("--local",)))
        file = tmp_path / "prometheus.yml"
        file.write_text(PROMETHEUS.format(target=gateway.admin_url.removeprefix("http://")))
        process = await asyncio.create_subprocess_exec(
            program, f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        client = await stack.enter_async_context(aiohttp.ClientSession())

        async def ask(expression: str) -> dict[str, Any]:
            url = f"http://127.0.0.1:{port}/api/v1/query"
            asked = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
            async with client.get(url, params={"query": asked}) as response:
                return dict(json.loads(await response.read()))

        for number, size in enumerate((2_000, 6_000_000)):
            assert (await gateway.post(make_call_log(size, seed=number, call_id=f"c{number}"))).status == 202
        await gateway.delivered()

        async def scraped_twice() -> bool:
            try:
                found = await ask('count_over_time(callspool_ready{instance=~"$instance"}[1m]) > 2')
            except aiohttp.ClientError:
                return False
            return bool(found["data"]["result"])

        await until(scraped_twice, "Prometheus has scraped the gateway", deadline=30)
        for name, panel in EXPRESSIONS:
            for expression, _ in panel.series:
                found = await ask(expression)
                assert found["status"] == "success", (name, panel.title, found)
                assert found["data"]["result"] or panel.optional, (name, panel.title, expression)

"""One gateway with an endpoint and a bucket, and one browser, for all tests of the pages."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench.endpoint import Endpoint, Fault
from gateway.admin.history import History, Note, Outage, Sample
from tests.loop_thread import LoopThread
from tests.page.calls import as_json, make_call
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import Receiver
from tests.system.waiting import until

BROWSERS = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
"""The first has no windows of its own, whose rendering takes a quarter of the time."""
CHROMIUM = Path(os.environ.get("CHROMIUM", next(filter(os.path.exists, BROWSERS), BROWSERS[0])))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
BIG = "5ef3f6d4-5009-4972-867d-1924a8c52881"
"""A call with 44 turns and 505 spans, whose detail waits for the bucket."""
HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>"


class InThread(LoopThread):
    """A gateway in a thread with an event loop of its own; `run` asks what is there."""

    gateway: GatewayProcess
    session: Any = None
    """What a browser keeps that has signed in, once one has."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def post(self, call: dict[str, Any]) -> None:
        """As an agent does."""
        reply = self.run(self.gateway.post(as_json(call)))
        assert reply.status == 202, reply.json

    def kill(self) -> None:
        """Kill the gateway, and forget the browser's session: it ends with the gateway."""
        self.run(self.gateway.kill())
        self.session = None

    @property
    def url(self) -> str:
        """Of the pages."""
        return self.gateway.admin_url

    @property
    def token(self) -> str:
        """The one in the spool's directory."""
        return (self.gateway.spool / "admin-token").read_text().strip()

    def stop(self) -> None:
        """End everything."""
        self.run(self._stop())
        self.close()

    async def _stop(self) -> None:
        await self.gateway.__aexit__(None, None, None)


class World(InThread):
    """A gateway with an endpoint and a bucket that refuses."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.endpoint = Endpoint()

    async def start(self) -> None:
        """A bucket that refuses, an endpoint that refuses three call logs, and some calls."""
        refusing = web.Application(client_max_size=1 << 28)
        refusing.router.add_route("*", "/{path:.*}", _access_denied)
        self._bucket = web.AppRunner(refusing)
        await self._bucket.setup()
        await web.TCPSite(self._bucket, "127.0.0.1", 0).start()
        port = self._bucket.addresses[0][1]
        await self.endpoint.start()
        await asyncio.to_thread(_fill_history, self.folder / "spool")
        environment = {
            "CALLSPOOL_ENDPOINT_URL": self.endpoint.url, "CALLSPOOL_S3_BUCKET": "calls-prod",
            "CALLSPOOL_S3_PREFIX": "details/", "CALLSPOOL_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-bucket", "AWS_REGION": "eu-west-1",
        }  # fmt: skip
        self.gateway = GatewayProcess(self.folder, environment)
        await self.gateway.start()
        await self._bury(3)
        for number in range(12):
            reason = ("completed", "user_hangup", "error")[number % 3]
            await self._post(f"a{number:07}-4bc6-4c3a-8a3a-{number:012}", turns=3, seed=number, reason=reason,
                             number=f"+1 555 0100 {150 + number}",
                             agent=("orders-en", "appointments-en")[number % 2])  # fmt: skip
        hostile = make_call(f"hostile-{HOSTILE}", turns=2, agent=HOSTILE, number=HOSTILE, reason=HOSTILE)
        hostile["transcript_with_metrics"][0] |= {"user_transcript": HOSTILE, "agent_response": HOSTILE}
        hostile["telemetry_data"]["session_traces"][0] |= {"name": HOSTILE}
        hostile["padding"] = "x" * 7_000_000
        await self.gateway.post(as_json(hostile))
        await self._post(BIG, turns=44, padding=6_200_000)

    def bury(self, many: int) -> None:
        """Have the endpoint refuse so many call logs."""
        self.run(self._bury(many))

    def discard_all(self) -> None:
        """Have no dead letters, whatever other tests left."""
        self.run(self.gateway.command("dead", "discard", "--all", "--yes", *self.gateway.admin))

    async def _bury(self, many: int) -> None:
        seen = len(self.endpoint.arrivals)
        self.endpoint.set_fault(Fault("status", 422, body='{"error": "agent_id: unknown agent"}', times=many))
        for number in range(many):
            await self._post(f"refused-{seen}-{number}", turns=2, agent="triage-en", seed=number)
        await self.endpoint.wait_until(lambda: len(self.endpoint.arrivals) >= seen + many)

    async def _post(self, call_id: str, **more: Any) -> None:
        reply = await self.gateway.post(as_json(make_call(call_id, started=time.time() - 280, **more)))
        assert reply.status == 202, reply.json

    async def _stop(self) -> None:
        await super()._stop()
        await self.endpoint.stop()
        await self._bucket.cleanup()


class ReceiverWorld(InThread):
    """A receiver with a store, a pipeline with local models, and callbacks that wait."""

    async def start(self) -> None:
        """With some calls, of which one asks to be called back."""
        receiver = Receiver(self.folder, f"sqlite:///{self.folder / 'calls.db'}")
        config = self.folder / "callspool.toml"
        config.write_text(_PIPELINE)
        receiver.environment["CALLSPOOL_CONFIG"] = str(config)
        self.gateway = receiver
        await receiver.start()
        for call_id, said in TALKS.items():
            call = make_call(call_id, turns=len(said), started=time.time() - 600, agent="appointments-en")
            call["transcript_json"] = [
                {"role": ("user", "assistant")[number % 2], "content": words} for number, words in enumerate(said)
            ]
            del call["transcript_with_metrics"]
            assert (await receiver.post(as_json(call))).status == 202

        async def worked() -> bool:
            status, body = await receiver.ask("/api/pipeline")
            return status == 200 and json.loads(body)["jobs"]["done"] >= len(TALKS)

        await until(worked, "the pipeline has worked on all calls")


TALKS = {
    "tooth": ("I have a terrible toothache and need to see a dentist.", "Please come on Tuesday at ten."),
    "crown": ("My crown fell out and my tooth hurts a lot.", "We will fit you in this afternoon."),
    "pizza": ("I would like to order two large pizzas with mushrooms.", "That will be thirty dollars."),
    "power": ("My electricity bill is much too high this month.", "Let me check your account."),
    "later": ("I am driving right now. Please call me back tomorrow at 9 am.", "Of course, we will call you tomorrow."),
    f"hostile-{HOSTILE}": (f"My tooth says {HOSTILE}", f"I am sorry to hear that {HOSTILE}"),
}
_PIPELINE = """
[[destinations]]
name = "pipeline"
type = "pipeline"
callbacks = {enabled = true, first_hour = 9, last_hour = 20}

[[destinations]]
name = "dialer"
type = "http"
url = "http://127.0.0.1:9/"
events = ["callback_due"]
"""


async def _access_denied(request: web.Request) -> web.Response:
    await request.read()
    text = '<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
    return web.Response(status=403, content_type="application/xml", text=text)


def _fill_history(directory: Path) -> None:
    """Three hours: an outage of the endpoint, and one of the bucket that lasts."""
    directory.mkdir(mode=0o700)
    history, now = History(), time.time_ns() // 1_000_000
    history.open(directory, now)
    minute, waiting, details, used = now // 60_000, 0, 0, 200_000_000
    for back in range(180, 0, -1):
        accepted = 16 + back * 7 % 5 + (back // 20) % 4
        down, filling = 136 < back <= 141, back <= 38
        waiting = waiting + accepted if down else max(0, waiting - 26)
        core = 0 if down else accepted + (26 if waiting else 0)
        details += accepted * 2 // 5 if filling else 0
        used += 15_700_000 if filling else 0
        sent = 0 if filling else accepted * 2 // 5
        sample = Sample(minute - back, accepted, core, sent, waiting, details, 3, used, details * 14_000_000)
        history.add(sample)
        history.write(sample, history.notes([]))
    history.outages.append(Outage("endpoint", now - 141 * 60_000, now - 136 * 60_000, "HTTP 503"))
    events = [
        Note(now - 141 * 60_000, "warning", "endpoint accepts no deliveries: HTTP 503, 5 in a row"),
        Note(now - 136 * 60_000, "info", "endpoint accepts deliveries again"),
    ]
    history.write(None, history.notes(events))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The gateway."""
    made = World(tmp_path_factory.mktemp("page"))
    made.run(made.start())
    yield made
    made.stop()


@pytest.fixture(scope="session")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverWorld]:
    """The receiver."""
    made = ReceiverWorld(tmp_path_factory.mktemp("receiver"))
    made.run(made.start())
    yield made
    made.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium; what needs it is skipped where there is none, but never where CI says that there must be one."""
    if not CHROMIUM.exists():
        assert "CHROMIUM_REQUIRED" not in os.environ, f"{CHROMIUM} is missing: apt-get install chromium-headless-shell"
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    driver = IN_THREAD.submit(sync_playwright().start).result()
    launched = IN_THREAD.submit(driver.chromium.launch, executable_path=CHROMIUM, args=FLAGS).result()
    yield launched
    IN_THREAD.submit(launched.close).result()
    IN_THREAD.submit(driver.stop).result()


# The synchronous driver runs an event loop in its thread, which would be in the way of all tests that have one.
IN_THREAD = ThreadPoolExecutor(1, thread_name_prefix="browser")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the tests that open pages in the thread of the browser."""
    if "open_page" not in pyfuncitem.fixturenames:
        return None
    wanted = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    IN_THREAD.submit(pyfuncitem.obj, **wanted).result()
    return True


@pytest.fixture
def open_page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages of the receiver where a test asks for that, else of the world; fails where a script did."""
    contexts, faults = [], []
    name = "receiver" if "receiver" in request.fixturenames else "world"
    world = request.getfixturevalue(name)

    def opened(path: str = "/", *, signed_in: bool = True, dark: bool = False, width: int = 1440, **more: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 1000}, color_scheme="dark" if dark else "light",
            storage_state=world.session if signed_in else None, **more,
        )  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"a dialog: {dialog.message}"))
        page.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
        if signed_in and world.session is None:
            page.goto(f"{world.url}/sign-in")
            page.fill("[name=token]", world.token)
            page.click("main button")
            world.session = context.storage_state()
        page.goto(world.url + path)
        return page

    yield opened
    for context in contexts:
        IN_THREAD.submit(context.close).result()
    assert not faults

"""Everybody can use the pages: axe-core finds nothing wrong, nothing is wider than a phone, keys do it all."""

from collections.abc import Callable
from typing import Any

import pytest

from bench.endpoint import Fault
from tests.page.calls import make_call
from tests.page.conftest import BIG, ReceiverWorld, World

pytestmark = pytest.mark.slow
Open = Callable[..., Any]
RULES = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}
LOOKS = [
    (False, 1440),
    pytest.param(True, 390, marks=pytest.mark.prove),
    pytest.param(False, 820, marks=pytest.mark.prove),
]
OF_A_SIDECAR = ("/", "/calls", f"/calls/{BIG}", "/dead", "/destinations", "/settings", "/sign-in")
OF_A_RECEIVER = ("/calls", "/calls/tooth", "/similar?call=tooth")


def findings(page: Any) -> list[str]:
    """What axe-core finds wrong, with where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{page.url}: {each['id']}: {[node['html'][:160] for node in each['nodes'][:3]]}" for each in found]


def look_at(page: Any, path: str, url: str) -> list[str]:
    page.goto(url + path)
    page.wait_for_selector("h1, h2")
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*findings(page), *([f"{path} is {wide} px too wide"] if wide > 0 else [])]


@pytest.mark.parametrize(("dark", "width"), LOOKS)
def test_axe_finds_nothing(world: World, open_page: Open, dark: bool, width: int) -> None:
    """Light and dark, on a desk, a tablet and a phone; dialogs, an open turn and the raw JSON included."""
    world.bury(1)
    page = open_page("/", dark=dark, width=width)
    page.wait_for_selector("#history canvas")
    found = [each for path in OF_A_SIDECAR for each in look_at(page, path, world.url)]
    page.goto(f"{world.url}/dead")
    page.check("[data-letter] >> nth=0")
    for order in ("discard",) if width == 1440 else ("discard", "export", "reroute", "replace-token"):
        page.click(f"#tray [data-order={order}]")
        page.wait_for_selector("#ask-count:has-text(' of ')")
        found += findings(page)
        page.keyboard.press("Escape")
    page.goto(f"{world.url}/calls/{BIG}?turn=22&view=clock")
    page.wait_for_selector("#rows .row.is")
    found += findings(page)
    page.click("#tab-raw")
    page.wait_for_selector("#json:has-text('call_id')")
    found += findings(page)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("dark", "width"), LOOKS)
def test_axe_finds_nothing_in_a_receiver(receiver: ReceiverWorld, open_page: Open, dark: bool, width: int) -> None:
    """The same of similar calls, callbacks and the store."""
    page = open_page("/", dark=dark, width=width)
    found = [each for path in OF_A_RECEIVER for each in look_at(page, path, receiver.url)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("width", [1440, pytest.param(820, marks=pytest.mark.prove), 375])
def test_long_texts_stay_within_the_page(world: World, open_page: Open, width: int) -> None:
    """Ids, agents, reasons and answers without a space do not push a page out of the window."""
    long, body = "x" * 180, '{"error": "' + "y" * 400 + '"}'
    world.endpoint.set_fault(Fault("status", 422, body=body, times=1))
    call = make_call(long, turns=2, agent=long, reason=long)
    call["transcript_with_metrics"][0]["user_transcript"] = long
    world.post(call)
    world.run(world.endpoint.wait_until(lambda: any(each.call_id == long for each in world.endpoint.arrivals)))
    page = open_page("/dead", width=width)
    page.wait_for_selector(f"code:has-text('{'y' * 50}')")
    wide = {}
    for path in ("/", "/calls", f"/calls/{long}", "/dead", "/destinations"):
        page.goto(world.url + path)
        page.wait_for_selector("h1")
        wide[path] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert max(wide.values()) <= 0, wide
    world.discard_all()

"""The pages in a real browser: live, by keyboard, without JavaScript, safe whatever a call log holds."""

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

import pytest

from bench.endpoint import Fault
from tests.budget import budgeted
from tests.page.calls import make_call
from tests.page.conftest import BIG, HOSTILE, World

_PAGE_DOWN = """async () => {
  const took = [];
  for (let count = 0; count < 20; count += 1) {
    const began = performance.now(), row = document.querySelector("#rows .is");
    row.dispatchEvent(new KeyboardEvent("keydown", { key: count < 10 ? "PageDown" : "PageUp", bubbles: true }));
    took.push(performance.now() - began);
    await new Promise(requestAnimationFrame);
  }
  return took.sort((a, b) => a - b)[10];
}"""
"""How many milliseconds a page of an open waterfall takes, the median of 20."""
_EVENTS = """async (count) => {
  const settled = async () => { while (asking) await new Promise((done) => setTimeout(done, 1)); };
  at("main").dataset.pause = "0";
  window.minute ??= Math.floor(Date.now() / 60000);
  for (let event = 0; event < count; event += 1) {
    await settled();
    await refresh();
    window.minute += 1;
    for (const each of followers.sample) each([window.minute, 3, 3, 1, event % 50, 2, 0, 1, 1]);
  }
  await settled();
}"""
"""As many events of the status, and samples, as in so many minutes."""
_COUNT_STREAMS = """
  window.streams = [];
  window.EventSource = class extends EventSource {
    constructor(address) { super(address); window.streams.push(this); }
  };
"""
"""Keeps all streams that a page opens."""
_SHOWN_AGAIN = """async () => {
  const until = async (holds) => { while (!holds()) await new Promise((done) => setTimeout(done, 10)); };
  const show = (shown) => {
    Object.defineProperty(document, "hidden", { configurable: true, value: !shown });
    document.dispatchEvent(new Event("visibilitychange"));
  };
  await until(() => window.streams[0]?.readyState === EventSource.CLOSED);
  const closed = performance.now();
  show(false);
  show(true);
  await until(() => performance.now() - closed > 3500);
  return window.streams.filter((each) => each.readyState !== EventSource.CLOSED).length;
}"""
"""How many streams are open once the next try after a failed one was due; the page was hidden and shown meanwhile."""
pytestmark = pytest.mark.slow
Open = Callable[..., Any]


def test_the_overview_says_what_is_wrong_and_follows(world: World, open_page: Open) -> None:
    """The outage is the headline, the chart is drawn, and an outage that begins and ends shows by itself."""
    page = open_page()
    page.wait_for_selector("#verdict:has-text('Details have not reached s3')")
    page.wait_for_selector("#history canvas")
    page.wait_for_selector(".live:has-text('live,')")
    assert "AccessDenied" in page.inner_text("#now")
    page.focus("#history")
    page.keyboard.press("PageDown")
    assert re.search(r"\d accepted", page.get_attribute("#history", "aria-valuetext"))
    world.endpoint.set_fault(Fault("status", 503))
    for number in range(6):
        world.post(make_call(f"outage-{number}-{time.time_ns()}", turns=2))
    page.wait_for_selector("#destinations-card tbody[data-key=endpoint] .pill.bad")
    world.endpoint.set_fault(Fault())
    page.click("[data-resume=endpoint]")
    page.wait_for_selector("#destinations-card tbody[data-key=endpoint] .pill.good")


@pytest.mark.prove
def test_a_page_says_when_it_hears_nothing(world: World, open_page: Open) -> None:
    """The last figures stay, with since when; what is heard again is live again, also after a proxy's error."""
    page = open_page()
    page.wait_for_selector(".live:has-text('live,')")
    title = page.inner_text("h1")
    os.kill(world.gateway.process.pid, signal.SIGSTOP)
    try:
        page.wait_for_selector(".live.lost:has-text('no answer since')")
        assert page.inner_text("h1").split(".")[0] == title.split(".")[0]
    finally:
        os.kill(world.gateway.process.pid, signal.SIGCONT)
    page.wait_for_selector(".live:not(.lost):has-text('live,')")
    page.route("**/api/events", lambda route: route.fulfill(status=502, body=""), times=1)
    page.reload()
    page.wait_for_selector(".live:has-text('live,')")


@pytest.mark.prove
def test_a_restart_needs_no_reload(world: World, open_page: Open) -> None:
    """Who looks at a page while the gateway is killed and starts again sees since when, and then what is new."""
    page = open_page("/")
    page.wait_for_selector(".live:has-text('live,')")
    page.evaluate("window.same = true")
    world.kill()
    page.wait_for_selector(".live.lost:has-text('no answer since')")
    world.run(world.gateway.start())
    page.wait_for_selector(".live:not(.lost):has-text('live,')")
    world.endpoint.set_fault(Fault("status", 503))
    for number in range(6):
        world.post(make_call(f"again-{number}-{time.time_ns()}", turns=2))
    page.wait_for_selector("#destinations-card tbody[data-key=endpoint] .pill.bad")
    world.endpoint.set_fault(Fault())
    page.click("[data-resume=endpoint]")
    page.wait_for_selector("#destinations-card tbody[data-key=endpoint] .pill.good")
    assert page.evaluate("window.same")


@pytest.mark.prove
@pytest.mark.parametrize("path", ["/", "/calls", "/destinations", "/dead"])
def test_a_page_that_stays_open_does_not_grow(world: World, open_page: Open, path: str) -> None:
    """After a thousand events there are as many nodes and listeners as before, and the heap is as large."""
    world.bury(1)
    page = open_page(path)
    page.wait_for_selector(".live:has-text('live,')")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def size() -> dict[str, float]:
        for _ in range(3):
            session.send("HeapProfiler.collectGarbage")
        return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}

    page.evaluate(_EVENTS, 20)
    before = size()
    page.evaluate(_EVENTS, budgeted(small=60, full=1000))
    after = size()
    # What was parsed last may still be there, with all of its nodes.
    assert after["Documents"] <= before["Documents"] + 3
    assert after["Nodes"] / after["Documents"] < 1.5 * before["Nodes"] / before["Documents"] + 500
    assert after["JSEventListeners"] <= before["JSEventListeners"] + 10
    assert after["JSHeapUsedSize"] < before["JSHeapUsedSize"] + 1_500_000


def test_a_page_says_when_its_session_has_ended(world: World, open_page: Open) -> None:
    """A restart ends sessions: what is shown stays, is no longer kept up to date, and the head says so."""
    page = open_page("/destinations")
    shown = page.locator("#all h2").all_inner_texts()
    page.route("**/destinations", lambda route: route.fulfill(status=401, body=""))
    world.post(make_call(f"after-{time.time_ns()}", turns=2))
    page.wait_for_selector(".live.lost:has-text('signed out')")
    assert page.locator("#all h2").all_inner_texts() == shown != []


def test_a_list_of_calls_does_not_move_and_is_searched(world: World, open_page: Open) -> None:
    """Newer calls wait behind a button; a search keeps its words in the address, and Back returns."""
    world.bury(1)
    page = open_page("/calls")
    first = page.inner_text("#rows tr:first-child th")
    world.post(make_call(f"newer-{time.time_ns()}", turns=2))
    page.wait_for_selector("#newer:not([hidden])")
    assert page.inner_text("#rows tr:first-child th") == first
    page.click("#newer")
    assert page.inner_text("#rows tr:first-child th").startswith("newer-")
    page.keyboard.press("Escape")
    page.click("h1")
    page.keyboard.press("/")
    page.keyboard.type("100")
    page.keyboard.press("Enter")
    page.wait_for_url("**/calls?q=100")
    assert BIG[:8] in page.inner_text("#rows")
    assert "+1 •••• 155" not in page.inner_text("#rows")
    page.go_back()
    page.wait_for_url("**/calls")
    page.select_option("[name=state]", "dead")
    page.wait_for_url("**/calls?state=dead")
    assert page.locator("#rows tr").count() == page.locator("#rows tr:has-text('dead letter')").count() > 0


def test_times_are_those_of_the_reader(world: World, open_page: Open) -> None:
    """Also in the field of the search: what is typed in New York is asked for in UTC, and shown again as typed."""
    page = open_page("/calls", timezone_id="America/New_York")
    page.fill("[name=before]", "2026-01-31T07:00:00")
    page.click("#filters .first")
    page.wait_for_url(re.compile("before=2026-01-31T12%3A00"))
    assert page.input_value("[name=before]").startswith("2026-01-31T07:00")
    page.goto(f"{world.url}/calls")
    utc = page.get_attribute("#rows time", "datetime")
    shown = page.inner_text("#rows time")
    assert (int(utc[11:13]) - int(shown[:2])) % 24 in {4, 5}


def test_one_call_shows_what_was_said_and_what_was_slow(open_page: Open) -> None:
    """Head, ways, bars, turns, and a waterfall of 505 spans, of which only the rows in sight are in the document."""
    page = open_page(f"/calls/{BIG}")
    page.wait_for_selector("#where:has-text('Waits')")
    page.wait_for_selector("#strip .f-ttft")
    assert page.locator("#rows .row").count() < 40
    page.click("#slowest")
    assert page.locator("#turns [aria-pressed=true] .slow").count() == 1
    assert page.locator("#rows .row.is:has-text('Turn 22')").count() == 1
    assert "turn=22" in page.url
    page.click("#fold")
    started = page.evaluate("performance.now()")
    page.focus("#rows .row.is")
    for key in ("End", "Home", "PageDown", "ArrowRight", "Enter", "+", "-", "Escape"):
        page.keyboard.press(key)
    assert page.evaluate("performance.now()") - started < 3000
    assert page.locator("#rows .row").count() < 60
    assert page.evaluate(_PAGE_DOWN) < 50
    page.click("#clock")
    assert "view=clock" in page.url
    page.click("#tab-raw")
    page.wait_for_selector("#json:has-text('call_id')")


@pytest.mark.parametrize("view", ["", "?view=clock"])
def test_a_span_that_lies_far_away_makes_no_axis_without_end(world: World, open_page: Open, view: str) -> None:
    """Whatever an agent writes, the axis has as many ticks as there is room for."""
    call = make_call(f"far-{time.time_ns()}", turns=2)
    spans = call["telemetry_data"]["session_traces"]
    spans.append({**spans[-1], "start_time_ns": spans[-1]["start_time_ns"] + 90 * 24 * 3600 * 10**9})
    world.endpoint.set_fault(Fault("status", 503))  # what is delivered is not here any more
    try:
        world.post(call)
        page = open_page(f"/calls/{call['call_id']}{view}")
        page.wait_for_selector("#rows .row")
        assert 1 < page.locator("#axis span").count() < 50
    finally:
        world.endpoint.set_fault(Fault())


def test_a_page_that_is_shown_again_follows_once(open_page: Open) -> None:
    """Also after an answer that was no stream, whose next try was due meanwhile."""
    page = open_page()
    page.wait_for_selector(".live:has-text('live,')")
    page.add_init_script(_COUNT_STREAMS)
    page.route("**/api/events", lambda route: route.fulfill(status=502, body=""), times=1)
    page.reload()
    assert page.evaluate(_SHOWN_AGAIN) == 1


def test_dead_letters_are_replayed_after_a_dry_run(world: World, open_page: Open) -> None:
    """A group and ticked ones open a dialog with the count; what was asked is done, told, and gone from the page."""
    world.discard_all()
    world.bury(3)
    page = open_page("/dead")
    page.wait_for_selector("[data-letter] >> nth=2")
    many = int(re.findall(r"\d+", page.inner_text("h1"))[0])
    page.click("[data-order=discard][data-group]")
    page.wait_for_selector(f"#ask-count:has-text('{many} of {many} would be discarded')")
    assert page.is_disabled("#ask-go")
    page.keyboard.press("Escape")
    page.wait_for_selector("#ask", state="hidden")
    assert page.evaluate("document.activeElement.dataset.order") == "discard"
    page.check("[data-letter] >> nth=0")
    page.wait_for_selector("#picked:has-text('1 selected')")
    page.click("#tray [data-order=replay]")
    page.wait_for_selector("#ask-count:has-text('1 of 1 would go')")
    page.click("#ask-go")
    page.wait_for_selector("#done:has-text('Replay: 1 done')")
    page.wait_for_selector(f"h1:has-text('{many - 1} dead letters')")
    page.click("[data-order=replay][data-group]")
    page.wait_for_selector(f"#ask-go:has-text('Replay {many - 1}')")
    page.click("#ask-go")
    page.wait_for_selector("h1:has-text('No dead letters.')")
    page.wait_for_selector("#pages .badge", state="detached")


def test_dead_letters_are_exported_before_they_are_discarded(world: World, open_page: Open) -> None:
    """The dialog of a discard offers it; what was ticked is downloaded, and stays."""
    world.bury(2)
    page = open_page("/dead")
    page.check("[data-letter] >> nth=-1")
    page.click("#tray [data-order=discard]")
    page.click("#ask-export")
    page.wait_for_selector("#ask-count:has-text('1 of 1 would be written')")
    with page.expect_download() as download:
        page.click("#ask-go")
    with ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 2
    page.wait_for_selector("#done:has-text('the download of 1 dead letter began')")
    assert page.locator("[data-letter]:checked").count() == 1


def test_another_key_is_given_once(world: World, open_page: Open) -> None:
    """Ticked dead letters are sent with the key that was typed; it stands nowhere on the page."""
    world.bury(1)
    page = open_page("/dead")
    page.check("[data-letter] >> nth=-1")
    call = page.inner_text("tr:has([data-letter]:checked) th")
    page.click("#tray [data-order=replace-token]")
    page.wait_for_selector("#ask-count:has-text('1 of 1 would go')")
    assert page.is_disabled("#ask-go")
    page.fill("#ask [name=token]", "another-key")
    page.click("#ask-go")
    page.wait_for_selector("#done:has-text('Give another key: 1 done')")
    assert "another-key" not in page.content()
    world.run(world.endpoint.wait_until(lambda: len([e for e in world.endpoint.arrivals if e.call_id == call]) >= 2))
    sent = [each for each in world.endpoint.arrivals if each.call_id == call]
    assert sent[-1].token == "another-key"


def test_a_reroute_says_what_stays(world: World, open_page: Open) -> None:
    """The dry run is made anew for another destination; Cancel changes nothing."""
    world.bury(1)
    page = open_page("/dead")
    page.check("[data-letter] >> nth=-1")
    page.click("#tray [data-order=reroute]")
    page.select_option("#ask [name=to]", "endpoint")
    page.wait_for_selector("#ask-list:has-text('1 stay')")
    assert page.is_disabled("#ask-go")
    page.select_option("#ask [name=to]", "s3")
    page.wait_for_selector("#ask-count:has-text('1 of 1 would go')")
    page.click("#ask-cancel")
    assert page.locator("[data-letter]:checked").count() == 1


def test_without_a_role_an_order_says_which_it_needs(world: World, open_page: Open) -> None:
    """The dialog stays, with what the gateway said and a way to sign in."""
    world.bury(2)
    page = open_page("/dead", signed_in=False)
    page.click("[data-order=discard][data-group]")
    page.wait_for_selector("#ask-note a:has-text('Sign in')")
    assert "role admin" in page.inner_text("#ask-note")


def test_a_destination_is_tried_from_its_page(open_page: Open) -> None:
    """Its last errors with status and answer, and the order to try it."""
    page = open_page("/destinations")
    assert "AccessDenied" in page.inner_text("[data-key=s3]")
    page.click("[data-resume=s3]")
    page.wait_for_selector("[data-key=s3] [role=status]:has-text('Tried')")


def test_nothing_of_a_call_log_runs(open_page: Open) -> None:
    """Markup in ids, agents, numbers, reasons, transcripts and names of spans is text on every page."""
    for path in ("/calls", f"/calls/{quote(f'hostile-{HOSTILE}', safe='')}"):
        page = open_page(path)
        page.wait_for_selector("h1")
        assert page.locator("img").count() == 0
        assert HOSTILE in page.inner_text("main") or HOSTILE[:20] in page.inner_text("main")


def test_without_javascript_the_figures_are_there(open_page: Open, world: World) -> None:
    """The first page of everything stands in the HTML; signing in, searching and paging are forms and links."""
    page = open_page(java_script_enabled=False)
    assert "s3" in page.inner_text("h1")
    assert page.locator("#destinations-card tbody").count() >= 2
    page.goto(f"{world.url}/calls?q={BIG[:13]}")
    page.click("#rows a")
    assert "Good evening, and thanks for calling" in page.inner_text("#turns")


def test_without_a_token_nothing_that_was_said_is_shown(open_page: Open) -> None:
    """The page stays: where the call is, and a field for the token; after signing in the conversation."""
    page = open_page(f"/calls/{BIG}", signed_in=False)
    assert "Where it is" in page.inner_text("main")
    assert "Good evening" not in page.content()
    assert page.locator("[name=token]").count() == 1

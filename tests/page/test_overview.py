"""Tests of the overview as the server renders it: complete without JavaScript, and safe whatever is in it."""

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient
from yarl import URL

from gateway.admin.auth import CSRF_HEADER
from gateway.admin.history import Sample
from gateway.admin.page.html import escaped, markup, tag, took_text
from gateway.admin.page.layout import assets, json_block
from gateway.admin.permissions import Role
from gateway.admin.view import Lifecycle, Phase
from spool.records import Lane
from spool.stats import LaneCounts, SpoolStats
from tests.admin.admin_app import AUTHORIZED, ENDPOINT_DOWN, LOCAL_UP, NOW, STATS, AdminFigures
from uploaders.base import DestinationStatus

UP = replace(ENDPOINT_DOWN, up=True, reason="", since=None, retry_at=None)
DELIVERED = {("endpoint", Lane.CORE): LaneCounts(owed=1, delivered=1)}
DEAD = {("endpoint", Lane.CORE): LaneCounts(owed=2, dead=2)}
EMPTY = replace(STATS, lanes={}, dead_reasons={}, oldest_pending={})
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


async def page_of(aiohttp_client: AiohttpClient, world: AdminFigures, path: str = "/") -> str:
    """The page as a browser gets it."""
    return await (await (await aiohttp_client(world.app)).get(path)).text()


async def test_nothing_of_another_origin_and_nothing_inline_runs(aiohttp_client: AiohttpClient) -> None:
    """No script, style or event handler stands in the page, nothing is loaded from elsewhere, nobody may frame it."""
    answer = await (await aiohttp_client(AdminFigures().app)).get("/")
    html, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\s(?:style|on\w+)=|https?://(?!localhost|127\.0\.0\.1|collect\.example)|<style", html)
    assert not re.search(r"<script(?! src=\"/assets/| type=\"application/json\")", html)


async def test_signing_in_leads_back_with_all_of_the_query(aiohttp_client: AiohttpClient) -> None:
    """A list that was filtered is filtered afterwards."""
    html = await page_of(aiohttp_client, AdminFigures(), "/calls?q=a%26b&state=dead&agent=x")
    (link,) = re.findall(r'href="(/sign-in\?[^"]*)"', html)
    assert URL(unescape(link), encoded=True).query["to"] == "/calls?q=a%26b&state=dead&agent=x"


def test_the_name_of_a_block_is_text() -> None:
    """A destination may be named by the database of another gateway, which was adopted."""
    assert HOSTILE not in json_block(f"select-{HOSTILE}", {})


async def test_assets_are_kept_for_ever_under_a_name_of_their_content(aiohttp_client: AiohttpClient) -> None:
    """What the page names is there, immutable, and all of it together is below 250 KB; another name is 404."""
    client = await aiohttp_client(AdminFigures().app)
    html = await (await client.get("/")).text()
    total = len(html)
    for path in re.findall(r'"(/assets/[^"]+)"', html):
        answer = await client.get(path)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        total += len(await answer.read())
    assert total < 250_000
    assert sum(len(each.body) for each in assets().values()) < 250_000
    assert (await client.get("/assets/page.00000000.js")).status == 404


@pytest.mark.parametrize(
    ("stats", "destinations", "headline"),
    [
        (EMPTY, (UP,), "Ready. Nothing was posted yet."),
        (replace(STATS, lanes=DELIVERED), (UP,), "everything is delivered."),
        (STATS, (ENDPOINT_DOWN, LOCAL_UP), "Calls are accepted. Cores have not reached endpoint for 1 minute."),
        (STATS, (replace(UP, refused_tokens=2),), "endpoint refuses 2 agent tokens; 1 delivery is held."),
        (replace(EMPTY, lanes=DEAD), (UP,), "2 dead letters wait for a decision."),
        (replace(STATS, unaccounted=3), (UP,), "3 deliveries are unaccounted for."),
        (replace(STATS, used_bytes=STATS.limit_bytes), (UP,), "Calls are not accepted: the spool is full"),
        (replace(STATS, used_bytes=STATS.limit_bytes - 1), (ENDPOINT_DOWN,), "Large call logs are refused"),
    ],
)  # fmt: skip
async def test_the_first_line_answers_whether_all_is_well(
    aiohttp_client: AiohttpClient, stats: SpoolStats, destinations: tuple[DestinationStatus, ...], headline: str
) -> None:
    """The worst trouble makes the headline; page and JSON say the same."""
    world = AdminFigures(stats=stats, destinations=destinations)
    client = await aiohttp_client(world.app)
    status = await (await client.get("/api/status")).json()
    assert headline in status["verdict"]["headline"]
    title = re.search(r"<h1[^>]*>(.*?)</h1>", await (await client.get("/")).text())
    assert title is not None
    assert title[1] == escaped(status["verdict"]["headline"])


async def test_a_detail_behind_an_undelivered_core_waits_too(aiohttp_client: AiohttpClient) -> None:
    """It is counted, and with its destination down details do not keep up; a notice before its object is no core."""
    lanes = {
        ("endpoint", Lane.CORE): LaneCounts(owed=3, ready=2, waiting=1),
        ("endpoint", Lane.DETAIL): LaneCounts(owed=5, waiting=5),
    }
    oldest = {("endpoint", Lane.DETAIL): NOW - 120_000}
    world = AdminFigures(stats=replace(EMPTY, lanes=lanes, oldest_pending=oldest), destinations=(ENDPOINT_DOWN,))
    text = re.sub(r"<[^>]+>", " ", await page_of(aiohttp_client, world))
    assert re.search(r"Cores waiting\s+2 ", text)
    assert re.search(r"Details waiting\s+5 ", text)
    assert re.search(r"Details keep up: no.*?5 wait, the oldest for 2 min", text)


async def test_a_gateway_that_starts_says_so(aiohttp_client: AiohttpClient) -> None:
    """Without a spool the page still renders, and says what it waits for."""
    world = AdminFigures(stats=None, lifecycle=Lifecycle(Phase.STARTING, ("the spool is being checked",)))
    assert "Calls are not accepted: the spool is being checked" in await page_of(aiohttp_client, world)


async def test_the_figures_are_there_without_javascript(aiohttp_client: AiohttpClient) -> None:
    """Backlog, ages, room, destinations, and the history as a table are in the HTML itself."""
    world = AdminFigures()
    for minute in range(20):
        world.recorder.history.add(
            Sample(NOW // 60_000 - 20 + minute, 17, 17, 6, 0, 2 * minute, 2, 10**9 + minute * 10**7, 5)
        )
    html = await page_of(aiohttp_client, world)
    text = re.sub(r"<[^>]+>", " ", html)
    assert "https://collect.example/dev/send-call-log" in text
    assert re.search(r"Growing by\s+10\.0 MB a minute", text)
    assert re.search(r"Full for large calls\s+10 h 10 min", text)
    assert "17 call logs a minute" in text
    assert html.count("<tr>") >= 20
    assert "Next try <time" in html


async def test_what_others_wrote_is_shown_as_text(aiohttp_client: AiohttpClient) -> None:
    """Reasons, names and events may hold markup: it is escaped, also in the data for the scripts."""
    world = AdminFigures(destinations=(replace(ENDPOINT_DOWN, reason=HOSTILE), replace(LOCAL_UP, name=HOSTILE)))
    world.events.destination_changed("endpoint", False, HOSTILE)
    world.recorder.note_destinations((replace(ENDPOINT_DOWN, name="</script>" + HOSTILE),))
    world.recorder.history.add(Sample(NOW // 60_000 - 1, 1, 1, 1, 1, 1, 1, 1, 1))
    html = await page_of(aiohttp_client, world)
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html
    assert "<img" not in html


def test_texts_cannot_break_out_of_attributes_or_turn_around() -> None:
    """Quotes are escaped, and letters that turn the direction of a text, or cannot be shown, become visible marks."""
    made = tag("a", "\u202egnp.exe\x00\ud800", href='"><script>')
    assert made == '<a href="&quot;&gt;&lt;script&gt;">\ufffdgnp.exe\ufffd\ufffd</a>'
    assert markup("a < b", tag("b", 3), None, ["c", ("d",)]) == "a &lt; b<b>3</b>cd"
    assert [took_text(ms) for ms in (91.6, 3620, 45_000, 250_000)] == [
        "92\u00a0ms", "3.62\u00a0s", "45.0\u00a0s", "4\u00a0min 10\u00a0s",
    ]  # fmt: skip


# Signing in ------------------------------------------------------------------------------------------------------


async def test_a_browser_presents_a_token_once(aiohttp_client: AiohttpClient) -> None:
    """A right token begins a session whose cookie no script reads and no other site sends; it ends with signing out."""
    world = AdminFigures(token="hush-hush-hush-hush")
    client = await aiohttp_client(world.app)
    assert not (await (await client.get("/api/status")).json())["complete"]
    answer = await client.post(
        "/sign-in", data={"token": "hush-hush-hush-hush", "to": "/calls?q=1"}, allow_redirects=False
    )
    assert (answer.status, answer.headers["Location"]) == (303, "/calls?q=1")
    cookie = answer.headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert "hush" not in cookie
    assert (await (await client.get("/api/status")).json())["complete"]
    await client.post("/sign-out")
    assert not (await (await client.get("/api/status")).json())["complete"]


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:1", "/a\nb", "//["]
)
async def test_signing_in_leads_nowhere_else(aiohttp_client: AiohttpClient, to: str) -> None:
    """Where it leads back to is a path of this listener, whatever a link says."""
    client = await aiohttp_client(AdminFigures(token="hush-hush-hush-hush").app)
    answer = await client.post("/sign-in", data={"token": "hush-hush-hush-hush", "to": to}, allow_redirects=False)
    assert answer.headers["Location"] == "/"
    assert (await client.get("/sign-in", params={"to": to})).status == 200


async def test_a_wrong_token_begins_no_session(aiohttp_client: AiohttpClient) -> None:
    """It is refused as in a header, counted, and limited in the same way."""
    client = await aiohttp_client(AdminFigures(token="hush-hush-hush-hush").app)
    answers = [await client.post("/sign-in", data={"token": "guess"}) for _ in range(11)]
    assert [answer.status for answer in answers] == [401] * 10 + [429]
    assert "Set-Cookie" not in answers[0].headers
    assert "The admin token is wrong." in await answers[0].text()


async def test_an_order_of_a_session_needs_its_csrf_token(aiohttp_client: AiohttpClient) -> None:
    """The cookie alone gives no order; with what our own page holds it does. A token in a header needs neither."""
    client = await aiohttp_client(AdminFigures(token="hush-hush-hush-hush").app)
    await client.post("/sign-in", data={"token": "hush-hush-hush-hush"})
    path = "/api/destinations/endpoint/resume"
    refused = await client.post(path, json={})
    assert (refused.status, (await refused.json())["error"]["code"]) == (403, "csrf")
    found = re.search(r'name="csrf" content="([^"]+)"', await (await client.get("/")).text())
    assert found is not None
    assert (await client.post(path, json={}, headers={CSRF_HEADER: found[1]})).status == 200
    client.session.cookie_jar.clear()
    assert (await client.post(path, json={}, headers=AUTHORIZED)).status == 200


async def test_a_session_ends_with_its_token_or_its_day(aiohttp_client: AiohttpClient) -> None:
    """A token that is no longer configured opens nothing, and neither does a session of yesterday."""
    world = AdminFigures(token="hush-hush-hush-hush")
    client = await aiohttp_client(world.app)

    async def complete() -> bool:
        return bool((await (await client.get("/api/status")).json())["complete"])

    await client.post("/sign-in", data={"token": "hush-hush-hush-hush"})
    assert await complete()
    world.access.accept_tokens({Role.ADMIN: ["another-token-here-now"]}, {})
    assert not await complete()
    world.access.accept_tokens({Role.ADMIN: ["hush-hush-hush-hush"]}, {})
    assert await complete()
    world.now += 13 * 3600 * 1000
    assert not await complete()


# Following ---------------------------------------------------------------------------------------------------------


async def test_a_page_that_follows_hears_of_changes_and_gets_what_it_missed(aiohttp_client: AiohttpClient) -> None:
    """`status` at once and after a change, `sample` for each minute since the last one that it knows, and a beat."""
    world = AdminFigures()
    for minute in (1, 2, 3):
        world.recorder.history.add(Sample(minute, minute, 0, 0, 0, 0, 0, 0, 0))
    client = await aiohttp_client(world.app)
    async with client.get("/api/events", headers={"Last-Event-ID": "1"}) as stream:
        assert stream.content_type == "text/event-stream"
        text = ""
        while "event: beat" not in text:
            text += (await stream.content.readline()).decode()
        assert re.findall(r"event: (\w+)", text) == ["sample", "sample", "status", "beat"]
        assert re.findall(r"id: (\d+)", text) == ["2", "3"]
        world.destinations = (UP, LOCAL_UP)
        while text.count("event: status") < 2:
            text += (await stream.content.readline()).decode()


ODD = "odd&name={2026-11} $(x)"
"""A destination of an adopted database may have any name."""


async def test_any_name_of_a_destination_is_text_in_addresses_and_commands(aiohttp_client: AiohttpClient) -> None:
    """It begins no other parameter, is no time, and no shell runs it when the command is copied."""
    lanes = {(ODD, Lane.CORE): LaneCounts(owed=2, ready=1, dead=1)}
    client = await aiohttp_client(AdminFigures(stats=replace(EMPTY, lanes=lanes), destinations=(UP,)).app)
    command = (await (await client.get("/api/status")).json())["verdict"]["cause"]["command"]
    assert command == f"callspool deliveries list --destination '{ODD}'"
    reasons = {(ODD, Lane.CORE): {"HTTP 400": 1}}
    stats = replace(EMPTY, lanes=lanes, dead_reasons=reasons, unaccounted=1)
    client = await aiohttp_client(AdminFigures(stats=stats, destinations=(UP,)).app)
    for path in ("/", "/destinations"):
        answer = await client.get(path)
        assert answer.status == 200
        links = [URL(unescape(link), encoded=True) for link in re.findall(r'href="([^"]*)"', await answer.text())]
        assert ODD in [link.query.get("destination") for link in links if link.path == "/dead"]
        assert path != "/" or ODD in [link.fragment for link in links]


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("http", "Correct the token of endpoint"), ("s3", "Correct bucket, region or credentials of endpoint")],
)
async def test_only_a_bucket_is_advised_as_one(aiohttp_client: AiohttpClient, kind: str, advice: str) -> None:
    """What an endpoint answers may speak of credentials and buckets, too."""
    down = replace(ENDPOINT_DOWN, type=kind, reason="HTTP 401: invalid credentials for this bucket")
    client = await aiohttp_client(AdminFigures(destinations=(down,)).app)
    cause = (await (await client.get("/api/status")).json())["verdict"]["cause"]
    assert cause["todo"][0].startswith(advice)


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"failure": "writing failed: disk I/O error; check the disk of the spool directory"}, "Look into the log"),
        ({"shortage": "the disk is full: no room for spool.db"}, "Free space"),
        ({"used_bytes": STATS.limit_bytes}, "Free space"),
    ],
)
async def test_only_a_full_disk_is_to_be_emptied(
    aiohttp_client: AiohttpClient, change: dict[str, Any], advice: str
) -> None:
    """Free space helps no disk that fails."""
    client = await aiohttp_client(AdminFigures(stats=replace(STATS, **change)).app)
    cause = (await (await client.get("/api/status")).json())["verdict"]["cause"]
    assert cause["todo"][0].startswith(advice)


@pytest.mark.parametrize(
    ("before", "answers", "behind"),
    [
        ((400, 9_000, 9_000), ["Cores keep up: no", "Details keep up: yes"], ["Cores for endpoint"]),
        ((600, 4_000, 9_000), ["Cores keep up: yes", "Details keep up: no"], ["Details for endpoint"]),
        ((600, 9_000, 4_000), ["Cores keep up: yes", "Details keep up: no"], ["Details for bucket"]),
        ((600, 9_000, 9_000), ["Cores keep up: yes", "Details keep up: yes"], []),
    ],
)
async def test_each_lane_of_each_destination_keeps_up_by_its_own_backlog(
    aiohttp_client: AiohttpClient, before: tuple[int, ...], answers: list[str], behind: list[str]
) -> None:
    """A large backlog that shrinks hides no other one that grows, neither of another lane nor of another place."""
    keys = [("endpoint", Lane.CORE), ("endpoint", Lane.DETAIL), ("bucket", Lane.DETAIL)]
    old = dict.fromkeys(keys, NOW - 7_200_000)

    def waiting(*counts: int) -> SpoolStats:
        lanes = {key: LaneCounts(owed=count, ready=count) for key, count in zip(keys, counts, strict=True)}
        return replace(EMPTY, lanes=lanes, oldest_ready=old, oldest_pending=old)

    world = AdminFigures(stats=waiting(500, 5_000, 5_000), destinations=(UP, replace(UP, name="bucket")))
    await world.recorder.take(waiting(*before), ())
    verdict = (await (await (await aiohttp_client(world.app)).get("/api/status")).json())["verdict"]
    assert [each["text"] for each in verdict["answers"][1:]] == answers
    said = " ".join((verdict["headline"], *verdict["others"]))
    assert re.findall(r"(\w+ for \w+) are behind", said) == behind


async def test_a_destination_that_is_up_and_slow_is_not_waited_for(aiohttp_client: AiohttpClient) -> None:
    """It does not come back: it is there. The backlog does not shrink."""
    lanes = {("endpoint", Lane.CORE): LaneCounts(owed=500, ready=500)}
    stats = replace(EMPTY, lanes=lanes, oldest_ready={("endpoint", Lane.CORE): NOW - 600_000})
    world = AdminFigures(stats=stats, destinations=(UP,))
    world.recorder.history.add(Sample(NOW // 60_000 - 1, 9, 9, 0, 500, 0, 0, 0, 0))
    client = await aiohttp_client(world.app)
    verdict = (await (await client.get("/api/status")).json())["verdict"]
    assert "Cores for endpoint are behind by 10 minutes." in verdict["headline"]
    assert "is back" not in verdict["cause"]["then"]
    text = re.sub(r"<[^>]+>", " ", await (await client.get("/")).text())
    assert re.search(r"Drained\s+not now\s+the backlog does not shrink", text)

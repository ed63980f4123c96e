"""The pages of a receiver in a real browser: similar calls, callbacks, all calls of the store."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.page.conftest import HOSTILE, ReceiverWorld

pytestmark = pytest.mark.slow
Open = Callable[..., Any]


def test_calls_are_found_by_what_they_mean_and_by_words(receiver: ReceiverWorld, open_page: Open) -> None:
    """A text is in no address; a call finds those like it; markup in a summary is text."""
    page = open_page("/similar")
    page.fill("[name=like]", "pain in the teeth")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits li")
    assert page.url.endswith("/similar")
    assert "toothache" in page.inner_text(".hits li:first-child")
    assert page.locator(".hits script, .hits img").count() == 0
    assert HOSTILE[:12] in page.inner_text(".hits")
    page.click(".hits li:has-text('toothache') a:has-text('more like this')")
    page.wait_for_url("**/similar?call=tooth")
    assert "crown" in page.inner_text(".hits")
    page.select_option("[name=how]", "words")
    page.fill("[name=like]", "mushrooms")
    page.click("main button.first")
    page.wait_for_selector("h1:has-text('1 call found')")
    page.click(".hits a")
    page.wait_for_selector("h1:has-text('pizza')")
    assert "mushrooms" in page.inner_text("#turns")
    page.click("a:has-text('Similar calls') >> nth=1")
    page.wait_for_url("**/similar?call=pizza")


def test_a_callback_is_done_by_hand_or_cancelled(receiver: ReceiverWorld, open_page: Open) -> None:
    """Who waits to be called stands beside the search, with a masked number; an order is told, and undone at once."""
    page = open_page("/similar")
    item = page.locator(".callbacks li")
    assert "+1 •••• 100" in item.inner_text()
    item.locator("[data-callback=done]").press("Enter")
    page.wait_for_selector("#done:has-text('Done')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#done:has-text('it waits again')")
    assert page.evaluate("document.activeElement.dataset.callback") == "done"
    page.clock.install()
    item.locator("[data-callback=cancel]").click()
    page.wait_for_selector("#done:has-text('Cancelled')")
    assert item.locator("button").inner_text() == "Undo"
    page.clock.run_for(10_000)
    page.wait_for_selector(".callbacks li", state="detached")
    page.reload()
    assert "No callback is pending." in page.inner_text("main")


def test_all_calls_of_the_store_are_searched(receiver: ReceiverWorld, open_page: Open) -> None:
    """By the beginning of an id, by a number, by agent and state."""
    page = open_page("/calls?q=pizz")
    assert page.locator("#rows tr").count() == 1
    for query, many in (("q=%2B1%205550100100", 0), ("q=%2B1+555+0100+100", 6), ("agent=nobody", 0), ("q=toot", 1)):
        page.goto(f"{receiver.url}/calls?{query}")
        assert page.locator("#rows tr:not([data-key=empty])").count() == many, query
    page.goto(f"{receiver.url}/calls/{quote(f'hostile-{HOSTILE}', safe='')}")
    assert page.locator("main img").count() == 0


def test_without_a_token_no_summary_is_shown(receiver: ReceiverWorld, open_page: Open) -> None:
    """Summaries are what was said: the page asks for a token, and shows what was wanted after it."""
    page = open_page("/similar?call=tooth", signed_in=False)
    assert "toothache" not in page.content()
    page.fill("[name=token]", receiver.token)
    page.click("main button")
    page.wait_for_url("**/similar?call=tooth")
    assert "crown" in page.inner_text(".hits")


def test_similar_calls_need_no_javascript(receiver: ReceiverWorld, open_page: Open) -> None:
    """The search is a form."""
    page = open_page("/similar", java_script_enabled=False)
    page.fill("[name=like]", "electricity")
    page.click("main button.first")
    assert "bill" in page.inner_text(".hits")

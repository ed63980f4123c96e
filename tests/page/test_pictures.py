"""The pictures of docs/page.md, made of the pages as they are: `make pictures` puts them there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.page.conftest import BIG, ReceiverWorld, World

pytestmark = [pytest.mark.slow, pytest.mark.prove]
Open = Callable[..., Any]
FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., None]:
    """Makes a picture: in docs/pictures where that is asked for; else it is thrown away."""
    folder = FOLDER if "MAKE_PICTURES" in os.environ else tmp_path

    def made(page: Any, name: str, height: int) -> None:
        width = page.viewport_size["width"]
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size > 20_000
        assert (FOLDER / path.name).exists(), f"{path.name} is not there: make pictures"

    return made


def test_pictures_of_a_sidecar(world: World, open_page: Open, picture: Callable[..., None]) -> None:
    """An outage on the overview; a call with its waterfall; the dry run before dead letters are replayed."""
    world.bury(3)
    page = open_page("/")
    page.wait_for_selector("#history canvas")
    picture(page, "page-overview", 1180)
    page = open_page(f"/calls/{BIG}?turn=22", dark=True)
    page.wait_for_selector("#rows .row.is")
    picture(page, "page-call", 1380)
    page = open_page("/dead")
    page.click("[data-order=replay][data-group]")
    page.wait_for_selector("#ask-go:not([disabled])")
    picture(page, "page-dead-letters", 720)
    page = open_page("/calls", dark=True, width=390)
    page.wait_for_selector("#rows tr")
    picture(page, "page-phone", 844)


def test_pictures_of_a_receiver(receiver: ReceiverWorld, open_page: Open, picture: Callable[..., None]) -> None:
    """Calls similar to another, and who waits to be called back."""
    page = open_page("/similar?call=tooth")
    page.wait_for_selector(".hits li")
    picture(page, "page-similar", 660)

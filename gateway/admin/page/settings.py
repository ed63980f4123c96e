"""The settings in force, each with where it came from; secrets are masked before they come here. Pure."""

from collections.abc import Sequence
from itertools import groupby

from gateway.admin.page.html import Html, markup, tag, told
from gateway.admin.page.layout import Page
from gateway.admin.view import SettingInForce

_DEFAULT = "default"


def settings_page(settings: Sequence[SettingInForce]) -> Page:
    """The page: what was set first, then all by section."""
    given = [each for each in settings if each.origin != _DEFAULT]
    about = told(
        "Secrets are masked. `callspool check-config` shows the same; `callspool reload` applies what was changed."
    )
    sections = [
        tag("details", tag("summary", name), _table(name, list(them)))
        for name, them in groupby(settings, key=lambda each: each.key.partition(".")[0])
    ]
    body = markup(
        tag("h1", f"{len(given)} of {len(settings)} settings are not the default.", id="title"),
        tag("p", about, class_="soft"),
        tag("section", tag("h2", "What is set", id="set"), _table("what is set", given), class_="card settings",
            aria_labelledby="set") if given else None,
        tag("section", tag("h2", "All settings", id="every"), sections, class_="card settings",
            aria_labelledby="every"),
    )  # fmt: skip
    return Page("/settings", "Settings", body)


def _table(name: str, settings: Sequence[SettingInForce]) -> Html:
    label = f"Settings: {name}"
    heads = tag("tr", [tag("th", head, scope="col") for head in ("Setting", "Value", "From")])
    rows = [
        tag(
            "tr",
            tag("th", each.key, scope="row", class_="mono"),
            tag("td", each.value),
            tag("td", each.origin, class_="soft" if each.origin == _DEFAULT else None),
        )
        for each in settings
    ]
    table = tag("table", tag("caption", label, class_="unseen"), tag("thead", heads), tag("tbody", rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)

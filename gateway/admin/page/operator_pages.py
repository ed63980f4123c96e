"""What the pages of operators ask of the gateway: dead letters, destinations, settings; and the page of these."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from aiohttp import web

from gateway.admin.auth import Access
from gateway.admin.page.dead import DeadLetters, dead_page, grouped
from gateway.admin.page.destinations import Troubles, destinations_page
from gateway.admin.page.html import Html, markup, tag, told
from gateway.admin.page.layout import Frame, Page, Shown, trouble_page
from gateway.admin.view import GatewayView, SettingInForce
from gateway.operations.schemas import LIMIT, DeliveryEntry, Select
from spool.errors import SpoolError
from uploaders.redact import redact

MOST_LOOKED_AT = 1000
"""Dead letters that the page looks at; those behind them are counted."""
LAST_ERRORS = 10


class OperatorPages:
    """Dead letters, destinations, settings."""

    def __init__(self, gateway: GatewayView, access: Access) -> None:
        self._gateway = gateway
        self._access = access

    def add_to(self, app: web.Application, shown: Shown) -> None:
        """Add the routes."""
        app.router.add_get("/dead", shown(self.dead))
        app.router.add_get("/destinations", shown(self.destinations))
        app.router.add_get("/settings", shown(self.settings))

    async def dead(self, request: web.Request, frame: Frame) -> Page:
        """Dead letters by reason, and orders about them."""
        only = request.query.get("destination", "")[:256]
        if self._gateway.delivery_admin is None:
            return trouble_page("/dead", "Dead letters", "The spool is not open.")
        try:
            entries = await self._dead_letters(only)
        except SpoolError as error:
            return trouble_page("/dead", "Dead letters", redact(str(error)))
        destinations = frame.status.destinations
        total = sum(each.dead for each in destinations if not only or each.name == only)
        targets = [each for each in destinations if each.configured]
        return dead_page(DeadLetters(grouped(entries), total, targets, only))

    async def _dead_letters(self, only: str) -> list[DeliveryEntry]:
        admin, found = self._gateway.delivery_admin, list[DeliveryEntry]()
        cursor: str | None = None
        while admin is not None and len(found) < MOST_LOOKED_AT:
            page = await admin.list(Select(states=("dead",), destination=only or None), cursor, LIMIT)
            found += page.deliveries
            cursor = page.cursor
            if cursor is None:
                break
        return found

    async def destinations(self, request: web.Request, frame: Frame) -> Page:
        """Breakers, refused tokens, last errors."""
        troubles: dict[str, Troubles] = {}
        if self._access.may_see_calls(request):
            try:
                troubles = {each.name: await self._troubles(each.name) for each in frame.status.destinations}
            except SpoolError as error:
                return trouble_page("/destinations", "Destinations", redact(str(error)))
        return destinations_page(frame.status, troubles)

    async def _troubles(self, destination: str) -> Troubles:
        spool, admin = self._gateway.spool, self._gateway.delivery_admin
        attempts = [] if spool is None else await spool.recent_attempts(destination, LAST_ERRORS)
        held: Counter[str] = Counter()
        if admin is not None:
            page = await admin.list(Select(states=("held",), destination=destination), None, LIMIT)
            held.update(each.agent_id or "without an agent" for each in page.deliveries)
        return Troubles(attempts, dict(held.most_common(LAST_ERRORS)))

    async def settings(self, _request: web.Request, _frame: Frame) -> Page:
        """The settings in force."""
        return settings_page(self._gateway.settings())


# The page of the settings in force, each with where it came from; secrets are masked before they come here. Pure.

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

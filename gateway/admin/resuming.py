"""The part of the admin API that ends a destination's wait: its breaker's, and those of the tokens that it refuses."""

import msgspec
from aiohttp import web

from gateway.admin.access import Access
from gateway.admin.answers import answer, refused
from gateway.admin.sources import Sources


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """What an order to resume did."""

    destination: str
    waited: bool
    """Whether it waited for anything; if so, one delivery is sent now, and one of each refused token."""


class ResumeHandler:
    """Takes orders to resume."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def add_to(self, app: web.Application, access: Access) -> None:
        """Add the route."""
        app.router.add_post("/api/destinations/{destination}/resume", access.order(self.resume))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Try a destination at once; 404 where none is configured under this name."""
        name = request.match_info["destination"]
        if self._sources.spool() is None:
            return refused(503, "spool_unavailable", "The spool is not open.", "Try again when /readyz answers 200.")
        waited = self._sources.resume(name)
        if waited is None:
            known = ", ".join(each.name for each in self._sources.destinations() if each.configured)
            hint = f"The configuration has: {known or 'none'}."
            return refused(404, "unknown_destination", "No destination is configured under this name.", hint)
        return answer(Resumed(destination=name, waited=waited))

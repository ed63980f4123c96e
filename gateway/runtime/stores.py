"""The stores of a gateway: opened at the start, swept while it runs, and asked.

A store is written to by its uploader. What is left is here: calls whose missing part does not come in time are given
up, and whoever asks for a call asks the first store of the configuration.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

import structlog

from gateway.announcements import Announcer
from uploaders.stores.routing import CallReads, Routing, RoutingObserver
from uploaders.stores.store import Store, StoreError, StoreUnavailable, Swept

OPEN_SECONDS: Final = 5.0
"""How long a start waits for a database; one that answers later is opened by the first write."""
SWEEP_LIMIT: Final = 1000
"""Calls that are given up in one transaction."""

_log = structlog.get_logger(__name__)


class StoreObserver(RoutingObserver, Protocol):
    """Hears what is given up, and how questions are routed, for metrics."""

    def calls_swept(self, destination: str, swept: Swept) -> None:
        """Calls were given up, and others wait still."""
        ...


class CallStores:
    """The stores by the names of their destinations, in the order of the configuration."""

    def __init__(
        self, stores: Mapping[str, Store], sweep_seconds: float, routing: Routing, observer: StoreObserver,
        chance: Callable[[], float], announcer: Announcer | None = None,
    ) -> None:  # fmt: skip
        self._announcer = announcer
        self._stores = stores
        first = next(iter(stores.values()), None)
        self.reads = None if first is None else CallReads(first, routing, observer, chance)
        """Answers questions from the first store; None where no destination is a store."""
        self._sweep_seconds = sweep_seconds
        self._observer = observer
        self._sweepers: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect and migrate. A database that cannot be reached is waited for later.

        Raises `StoreRefused` where that would not help: a newer schema, the wrong database, a missing grant.
        """
        await asyncio.gather(*[_open(name, store) for name, store in self._stores.items()])

    def start(self) -> None:
        """Begin to sweep, and to announce what becomes complete."""
        if self._announcer is not None:
            self._announcer.start()
        self._sweepers = [asyncio.create_task(self._sweep(name, store)) for name, store in self._stores.items()]

    async def stop(self) -> None:
        """End it, before the stores are closed."""
        if self._announcer is not None:
            await self._announcer.stop()
        for sweeper in self._sweepers:
            sweeper.cancel()
        await asyncio.gather(*self._sweepers, return_exceptions=True)
        self._sweepers = []

    async def _sweep(self, name: str, store: Store) -> None:
        while True:
            # A store in trouble is reported by the deliveries to it.
            with suppress(StoreError):
                await self._sweep_once(name, store)
            await asyncio.sleep(self._sweep_seconds)

    async def _sweep_once(self, name: str, store: Store) -> None:
        while True:
            swept = await store.sweep(SWEEP_LIMIT)
            self._observer.calls_swept(name, swept)
            if swept.timed_out + swept.orphans < SWEEP_LIMIT:
                return


async def _open(name: str, store: Store) -> None:
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await store.open()
    except (StoreUnavailable, TimeoutError) as error:
        reason = str(error) or f"no answer within {OPEN_SECONDS:.0f} s"
        _log.warning("store_unavailable", destination=name, reason=reason)

"""One soak in its order: servers, load and troubles side by side, replay, drain, and what came of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from bench.endpoint import Fault
from bench.journal import Journal
from bench.processes import free_port
from bench.servers import endpoint
from bench.soak.agents import Agents, keep_posting, kinds
from bench.soak.bad_clients import BadClients
from bench.soak.bucket import Bucket, a_bucket
from bench.soak.gateway import Gateway, Operator
from bench.soak.ledger import Ledger, missing_at_endpoint, missing_in_bucket
from bench.soak.troubles import MEASURED_FROM, MIDDLE, Trouble, timetable
from bench.soak.verdict import SPOOL_MARGIN, Outcome
from bench.soak.watching import Sample, Watch, bytes_in

_PATH = "/dev/send-call-log"
_REPLAY_SECONDS = 5.0
_DRAIN_SECONDS = 180.0
_SHRINK_SECONDS = 60.0
_POLL_SECONDS = 0.5
_RESTART_SECONDS = 120.0
_BETWEEN_RESTARTS = 100

Tell = Callable[[str, Sample | None], None]
"""Hears what goes on now, and the newest sample."""


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a soak found, and what it did."""

    outcome: Outcome
    ledger: Ledger
    bad_clients: dict[str, int]
    no_bucket: str | None
    """Why there was no bucket; None when there was one."""


class Soak:
    """The parts of one run, and what they share."""

    def __init__(
        self, seconds: float, gateway: Gateway, journal: Journal, session: aiohttp.ClientSession, tell: Tell
    ) -> None:
        self.seconds = seconds
        self.gateway = gateway
        self.journal = journal
        self.ledger = Ledger()
        self.operator = Operator(session, gateway.admin_port)
        self.agents = Agents(session, gateway.intake_port, self.ledger)
        self.bad_clients = BadClients(gateway.intake_port)
        self.begun = time.monotonic()
        self.watch = Watch(gateway, self.operator, self.begun)
        self.replayed = 0
        self.unclean_ends = 0
        self._session = session
        self._tell = tell
        self._now = "load"
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Post, restart, make trouble until the time is over; then drain."""
        async with asyncio.TaskGroup() as always:
            looking = always.create_task(self.watch.keep_looking(self._seen))
            replaying = always.create_task(self._keep_replaying())
            async with asyncio.TaskGroup() as load:
                for kind in kinds(self.seconds):
                    load.create_task(keep_posting(self.agents, kind, self._over))
                load.create_task(self.bad_clients.keep_coming(self._over))
                load.create_task(self._make_trouble())
            self._do("draining")
            await self._drained()
            replaying.cancel()
            looking.cancel()

    async def shrunk(self, before: int) -> int:
        """Wait until the spool's folder is small again, for a minute at most; what it takes then."""
        self._do("shrinking")
        deadline = time.monotonic() + _SHRINK_SECONDS
        while (size := bytes_in(self.gateway.spool)) > before + SPOOL_MARGIN and time.monotonic() < deadline:
            self._tell(self._now, await self.watch.look())
            await asyncio.sleep(_POLL_SECONDS)
        return size

    def _seen(self, sample: Sample) -> None:
        self._tell(self._now, sample)

    async def _make_trouble(self) -> None:
        """Both restarts, each in the middle of the load; the time counts from when all kinds were posted since."""
        try:
            await self._acknowledged_more()
            self._do("SIGTERM")
            self.unclean_ends += await self.gateway.stop() != 0
            await self.gateway.start()
            await self._acknowledged_more()
            self._do("SIGKILL")
            await self.gateway.kill()
            await self.gateway.start()
            self._do("one of each kind")
            await self._acknowledged_of_each_kind()
            self._do("load")
            self.begun = self.watch.begun = time.monotonic()
            for moment in timetable(self.seconds):
                await self._until(moment.at_seconds)
                await self._trouble(moment.trouble)
            await self._until(self.seconds)
        finally:
            self._over.set()

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, self.begun + seconds - time.monotonic()))

    async def _acknowledged_more(self) -> None:
        """Until some more records were acknowledged, so that the next restart finds work under way."""
        wanted = len(self.ledger.records) + _BETWEEN_RESTARTS
        await self._soon(lambda: len(self.ledger.records) >= wanted)

    async def _acknowledged_of_each_kind(self) -> None:
        """Until the present process has taken one post of each kind, so that it has the memory it works with."""
        before = Counter(self.ledger.posts)
        names = {kind.name for kind in kinds(self.seconds)}
        await self._soon(lambda: all(self.ledger.posts[name] > before[name] for name in names))

    async def _soon(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_RESTART_SECONDS):
            while not condition():  # noqa: ASYNC110 - a look twice a second costs nothing
                await asyncio.sleep(_POLL_SECONDS)

    def _do(self, now: str) -> None:
        self._now = now
        self._tell(now, None)

    async def _trouble(self, trouble: Trouble) -> None:
        self._do(f"endpoint {trouble.name}")
        await self._fault(trouble.fault)
        await asyncio.sleep(trouble.seconds(self.seconds))
        await self._fault(Fault())
        await self.operator.resume()
        self._do("load")

    async def _fault(self, fault: Fault) -> None:
        url = self.gateway.endpoint_url.removesuffix(_PATH) + "/_fault"
        async with self._session.post(url, json=asdict(fault)) as answer:
            answer.raise_for_status()

    async def _keep_replaying(self) -> None:
        while True:
            await asyncio.sleep(_REPLAY_SECONDS)
            self.replayed += await self.operator.replay()

    async def _drained(self) -> None:
        """Until nothing is queued or dead, or the time for it is over; the verdict tells which."""
        await self.operator.resume()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < deadline:
            sample = await self.watch.look()
            if sample is not None and not sample.queued and not sample.dead:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def soak(seconds: float, folder: Path, tell: Tell, *, with_bucket: bool = True) -> Soaked:
    """Run it all below `folder`, which must be on a disk. Raises `ServerFailed` when a server does not start."""
    async with AsyncExitStack() as stack:
        bucket = stack.enter_context(a_bucket(folder)) if with_bucket else "left out"
        present = bucket if isinstance(bucket, Bucket) else None
        if present is not None:
            await present.make()
        port = free_port()
        journal = Journal(stack.enter_context(endpoint(folder, port)))
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        gateway = Gateway(folder, f"http://127.0.0.1:{port}{_PATH}", present.address if present else None)
        stack.push_async_callback(gateway.kill)
        await gateway.start()
        before = bytes_in(gateway.spool)
        one = Soak(seconds, gateway, journal, session, tell)
        await one.run()
        after = await one.shrunk(before)
        one.unclean_ends += await gateway.stop() != 0
        outcome = await asyncio.to_thread(_outcome, one, before, after, await present.keys() if present else None)
        why = bucket if isinstance(bucket, str) else None
        return Soaked(outcome, one.ledger, dict(one.bad_clients.ended), why)


def _outcome(one: Soak, before: int, after: int, keys: set[str] | None) -> Outcome:
    one.journal.read()
    records, arrived = one.ledger.records.values(), one.journal.arrived
    digests = {(each.key, each.sha256) for each in arrived}
    last = one.watch.samples[-1]
    return Outcome(
        samples=tuple(one.watch.samples),
        measured_from=MEASURED_FROM * one.seconds,
        middle=MIDDLE * one.seconds,
        measured_until=one.seconds,
        acknowledged=len(records),
        unexpected_answers=len(one.ledger.unanswered),
        missing_at_endpoint=len(missing_at_endpoint(records, arrived)),
        missing_in_bucket=None if keys is None else len(missing_in_bucket(records, keys)),
        conflicts=len(digests) - len({key for key, _ in digests}),
        left_queued=round(last.queued),
        left_dead=round(last.dead),
        replayed=one.replayed,
        spool_before=before,
        spool_after=after,
        unclean_ends=one.unclean_ends,
    )

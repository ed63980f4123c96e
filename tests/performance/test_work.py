"""What a group of posts, and a group of deliveries, costs the spool: commits, statements, bytes written."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from spool.records import Accepted, Delivered, Delivery
from spool.store import Spool
from tests.spool.spool_parts import Clock, Commits, a_record, becomes, opened, writer_held_up

GROUP = 32
"""Posts that came while one commit was written: about what 32 connections make of a disk that takes 5 ms."""
BODY = make_call_log(2_000, seed=1, call_id="call")


@dataclass
class Work:
    """What the writer did in a block."""

    commits: int = 0
    statements: list[str] = field(default_factory=list)
    bytes_written: int = 0


class Watched:
    """A spool whose writer is looked at while it works."""

    def __init__(self, spool: Spool, commits: Commits) -> None:
        self.spool = spool
        self._commits = commits

    async def together(self, *work: Coroutine[object, object, object]) -> tuple[list[object], Work]:
        """Do all of it in one group; returns the results, and what it cost."""
        done = Work()
        waiting = self.spool._writer._queue._inbox
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(writer_held_up(self.spool))
            tasks = [asyncio.create_task(one) for one in work]
            await becomes(lambda: waiting.qsize() == len(work))
            commits_before = len(self._commits.batches)
            with self._tracing(done), _counting_bytes(done):
                await stack.aclose()
                results = await asyncio.gather(*tasks)
        done.commits = len(self._commits.batches) - commits_before
        return list(results), done

    @contextmanager
    def _tracing(self, done: Work) -> Iterator[None]:
        connection = self.spool._writer.database.transaction.connection

        def note(statement: str) -> None:
            # A statement whose rows have a trigger is told once more for each of them.
            if done.statements[-1:] != [statement]:
                done.statements.append(statement)

        connection.set_trace_callback(note)
        try:
            yield
        finally:
            connection.set_trace_callback(None)


@contextmanager
def _counting_bytes(done: Work) -> Iterator[None]:
    before = _bytes_written()
    yield
    done.bytes_written = _bytes_written() - before


def _bytes_written() -> int:
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    commits = Commits()
    async with opened(tmp_path, clock=Clock(), commits=commits) as spool:
        spool._maintaining.cancel()  # which would do its own work in between
        await asyncio.gather(spool._maintaining, return_exceptions=True)
        yield Watched(spool, commits)


async def accepted(
    watched: Watched, first: int, *, token: str | None = None, count: int = GROUP
) -> tuple[list[Delivery], Work]:
    """Accept a group of new calls; returns their deliveries."""
    posts = [watched.spool.accept(a_record(f"c{first + n}", body=BODY, token=token)) for n in range(count)]
    results, work = await watched.together(*posts)
    return [one.ready[0] for one in results if isinstance(one, Accepted)], work


def own(work: Work) -> list[str]:
    """The statements but for those of the block's first commit, which held the group up, and wrote nothing."""
    return work.statements[work.statements.index("COMMIT") + 1 :]


async def test_a_group_of_posts_takes_nine_statements_and_one_commit(watched: Watched) -> None:
    """Whatever the number of posts in a group, they are looked up, inserted and counted together."""
    _, work = await accepted(watched, 0)
    assert work.commits == 1
    assert len(own(work)) <= 9, own(work)


@pytest.mark.parametrize(("count", "statements"), [(1, 9), (15, 9), (31, 12), (63, 12)])
async def test_a_group_of_any_size_takes_few_statements(watched: Watched, count: int, statements: int) -> None:
    """At most two statements for each table, for up to 64 rows of any number."""
    _, work = await accepted(watched, 0, count=count)
    assert work.commits == 1
    assert len(own(work)) <= statements, own(work)


async def test_a_group_of_deliveries_takes_nine_statements_and_one_commit(watched: Watched) -> None:
    """Deliveries that ended, their receipts and their payloads are written together."""
    deliveries, _ = await accepted(watched, 0)
    _, work = await watched.together(*(watched.spool.settle(one, Delivered()) for one in deliveries))
    assert work.commits == 1
    assert len(own(work)) <= 9, own(work)


async def test_posts_and_deliveries_share_a_group(watched: Watched) -> None:
    """What comes in between does not tear a group apart: both kinds together take what each takes by itself."""
    deliveries, _ = await accepted(watched, 0)
    mixed: list[Coroutine[object, object, object]] = []
    for number, delivery in enumerate(deliveries):
        mixed += [watched.spool.settle(delivery, Delivered()), watched.spool.accept(a_record(f"m{number}", body=BODY))]
    _, work = await watched.together(*mixed)
    assert work.commits == 1
    assert len(own(work)) <= 14, own(work)


async def test_tokens_cost_a_group_few_statements(watched: Watched) -> None:
    """A known token of the agents is one statement more for a group, not for each of its posts."""
    first, _ = await accepted(watched, 0, token="secret")
    second, work = await accepted(watched, GROUP, token="secret")
    assert len(own(work)) <= 10, own(work)
    _, work = await watched.together(*(watched.spool.settle(one, Delivered()) for one in first))
    assert len(own(work)) <= 10, own(work)
    assert len(second) == GROUP


async def test_posts_write_few_bytes(watched: Watched) -> None:
    """In groups, a 2 KB post writes less than four times its size (12 pages a group), and so does its end."""
    written, ended = [], []
    for first in range(0, 6 * GROUP, GROUP):
        deliveries, work = await accepted(watched, first)
        written.append(work.bytes_written / GROUP)
        _, work = await watched.together(*(watched.spool.settle(one, Delivered()) for one in deliveries))
        ended.append(work.bytes_written / GROUP)
    # The smallest, since a checkpoint may run beside any of them.
    assert min(written) < 4 * len(BODY), written
    assert min(ended) < 4 * len(BODY), ended

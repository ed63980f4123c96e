"""`callspool work --pipeline`: calls that became complete in a store are worked on without a receiver."""

import asyncio
from pathlib import Path

import pytest

from config.loader import load
from gateway.runtime.pipeline import PipelineWorker, pipeline_settings, serve
from gateway.runtime.worker import NotConfigured
from tests.spool.spool_parts import becomes
from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from uploaders.stores.parts import PartKind

END = b'{"call_id": "c", "transcript_json": [{"role": "user", "content": "My tooth hurts."}]}'


@pytest.mark.slow
async def test_complete_calls_are_taken_from_the_outbox(tmp_path: Path, unused_tcp_port: int) -> None:
    """The transaction that completed them wrote that down; the worker queues them, works on them, and forgets them."""
    engine = SqliteEngine(tmp_path)
    store = engine.store(announces=True)
    await store.write([part_of(PartKind.START, "c"), part_of(PartKind.END, "c", document=END)])
    environment = {
        "CALLSPOOL_DATABASE_URL": f"sqlite:///{engine.path}",
        "CALLSPOOL_PIPELINE": "queue",
        "CALLSPOOL_ADMIN_LISTEN": f"127.0.0.1:{unused_tcp_port}",
    }
    settings = load(None, environment).settings
    destination = pipeline_settings(settings)
    assert destination is not None
    worker = PipelineWorker(settings, destination)
    running = asyncio.create_task(worker.run())
    await becomes(lambda: bool(engine.rows("select 1 from call_insights")))
    worker._told_to_stop.set()
    assert await running == 0
    assert engine.rows("select call_id, summary from call_insights") == [("c", "Caller: My tooth hurts.")]
    assert engine.rows("select count(*) from completions") == [(0,)]
    await store.close()


def test_without_a_pipeline_it_says_what_to_set() -> None:
    """In the words of the settings."""
    settings = load(None, {"CALLSPOOL_DATABASE_URL": "sqlite:///calls.db"}).settings
    with pytest.raises(NotConfigured, match="CALLSPOOL_PIPELINE"):
        serve(settings)

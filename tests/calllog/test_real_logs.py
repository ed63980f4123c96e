"""Call logs that a real agent wrote, where the folder with them lies beside the repository."""

import json
from pathlib import Path

import pytest
import zstandard

from gateway.calllog.document import parse
from gateway.calllog.reduce import Critical, reduce_detail
from gateway.calllog.split import CORE_MAX_BYTES, split
from tests.calllog.joined_documents import body, core, detail, whole

CALLS = Path(__file__).parents[3] / "shared" / "calls"
FILES = sorted(CALLS.glob("*.json.zst"))


@pytest.mark.skipif(not FILES, reason=f"no real call logs in {CALLS}")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_real_call_logs_are_split_without_loss(path: Path) -> None:
    """A real call log passes unchanged, its core is small and has its figures, and whole and detail lose nothing."""
    posted = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    original = json.loads(posted)
    call_log = parse(posted)
    parts = split(call_log)

    assert body(call_log) == posted
    assert len(core(parts)) < CORE_MAX_BYTES / 10
    assert json.loads(whole(parts)) == original
    made = json.loads(core(parts))
    assert made["summary_metrics"]["total_turns"] == len(original["transcript_with_metrics"])
    assert made["summary_metrics"]["avg_ttft"] > 0
    assert made["telemetry_summary"]["total_spans"] == original["telemetry_data"]["performance_metrics"]["total_spans"]
    counts = original["telemetry_data"]["span_summary"]["by_operation"]
    assert made["telemetry_summary"]["operation_counts"] == counts
    assert made["transcript_json"] == original["transcript_json"]
    sent = json.loads(detail(parts, call_log.call_id))
    assert sent["transcript_with_metrics"] == original["transcript_with_metrics"]
    assert len(b"".join(reduce_detail(detail(parts, "a"), Critical()))) < len(posted)

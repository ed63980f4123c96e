"""The benchmark of the ways in from outside runs, and says what it measured."""

import pytest
from click.testing import CliRunner

from bench.ways import ways


@pytest.mark.prove
def test_webhooks_audio_and_spans_are_measured() -> None:
    """One short round prints the times of webhooks beside a drain, of audio, and of spans in both encodings."""
    result = CliRunner().invoke(ways, ["--seconds", "0.5", "--backlog", "2", "--spans", "200", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    said = ("nothing else to do", "while details", "anonymous memory", "protobuf", "JSON")
    assert all(word in result.output for word in said), result.output

"""The process of local models: it starts when it is needed, ends when idle, and needs no network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spool.spool_parts import becomes
from uploaders.pipeline.local import LocalModels
from uploaders.pipeline.local_main import Nearest, answer_to
from uploaders.pipeline.models import ModelUnavailable

DENTAL = (
    ("caller", "Good morning. I have a terrible toothache since Monday. It keeps me awake at night."),
    ("agent", "I am sorry to hear that. We have an appointment with the dentist on Tuesday at ten."),
    ("caller", "I have a terrible toothache since Monday! Tuesday at ten is fine for me. Thank you."),
)
ALONE = """
import asyncio, json, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from uploaders.pipeline.local import LocalModels

async def main():
    models = LocalModels(Path({folder!r}))
    try:
        (vector,) = await models.embed(["a toothache"])
        print(json.dumps([len(vector), await models.extract((("caller", "I have a toothache since Monday."),))]))
    finally:
        await models.close()

asyncio.run(main())
"""


def ended(models: LocalModels, pid: int) -> bool:
    """Whether this process of theirs is no more."""
    if models.pid is not None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
async def test_the_process_ends_when_idle_and_is_started_again(tmp_path: Path) -> None:
    """Nothing runs before the first request, and some time after the last one; one that is killed is replaced."""
    models = LocalModels(tmp_path, idle_seconds=0.3)
    before = models.pid
    assert before is None
    summary = await models.extract(DENTAL)
    assert summary.count("toothache") == 1
    assert summary.startswith("Caller: ")
    pid = models.pid
    assert pid is not None
    await becomes(lambda: ended(models, pid))
    one, other, far = await models.embed(["my tooth hurts", "a terrible toothache", "two pizzas, please"])
    next_pid = models.pid
    assert next_pid not in {None, pid}
    assert len({len(one), len(other), len(far), 4 * 256}) == 1
    assert next_pid is not None
    os.kill(next_pid, 9)
    with pytest.raises(ModelUnavailable):
        await models.embed(["again"])
    assert len(await models.embed(["again"])) == 1
    await models.close()
    assert models.pid is None


@pytest.mark.slow
def test_the_models_work_without_any_network(tmp_path: Path) -> None:
    """In a network namespace in which there is nothing, not even loopback."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("this user may not make network namespaces")
    script = ALONE.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    command = ["unshare", "-rn", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1024, "Caller: I have a toothache since Monday."]


def test_a_question_about_a_database_that_is_none_is_answered(tmp_path: Path) -> None:
    """The process says what is wrong, and goes on."""
    (tmp_path / "x.db").write_bytes(b"no database, but long enough to be read as one" * 50)
    answer = answer_to(Nearest(str(tmp_path / "x.db"), "", "m", b"\0" * 8, 3))
    assert "DatabaseError" in getattr(answer, "reason", "")

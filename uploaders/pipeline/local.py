"""The gateway's side of the process of local models (`local_main`): started when it is needed, ended when idle."""

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog

from spool.sandbox import LENGTH_BYTES, environment, framed, module_command
from uploaders.pipeline.local_main import (
    Embed,
    Extract,
    Failed,
    FromModels,
    Matches,
    Nearest,
    Sentences,
    ToModels,
    Vectors,
    decode_answer,
    encode,
)
from uploaders.pipeline.models import ModelUnavailable
from uploaders.pipeline.options import BUNDLED, BUNDLED_DIMENSIONS

IDLE_SECONDS: Final = 60.0
"""How long the process waits for more before it ends, and gives back 80 MB."""
ANSWER_SECONDS: Final = 60.0
_COMMAND: Final = module_command("uploaders.pipeline.local_main")
_log = structlog.get_logger(__name__)


def missing_library() -> str | None:
    """The first library of the extra that is not installed; nothing is imported."""
    return next((name for name in ("numpy", "wordllama") if find_spec(name) is None), None)


class LocalModels:
    """Asks the process, one request at a time. `folder` is that of the SQLite store, or any empty one."""

    def __init__(self, folder: Path, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._folder = folder
        self._idle_seconds = idle_seconds
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._used_at = 0.0
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    async def embed(self, texts: Sequence[str]) -> tuple[bytes, ...]:
        """Vectors of the bundled model. Raises `ModelUnavailable`."""
        answer = await self._ask(Embed(tuple(texts)))
        assert isinstance(answer, Vectors)
        return answer.vectors

    async def extract(self, turns: Sequence[tuple[str, str]]) -> str:
        """The most telling sentences of a call. Raises `ModelUnavailable`."""
        answer = await self._ask(Extract(tuple(turns)))
        assert isinstance(answer, Sentences)
        return answer.text

    async def nearest(
        self, path: Path, project: str, model: str, vector: bytes, limit: int
    ) -> tuple[tuple[str, float], ...]:
        """The calls in this SQLite store nearest to a vector, with their similarity. Raises `ModelUnavailable`."""
        answer = await self._ask(Nearest(str(path), project, model, vector, limit))
        assert isinstance(answer, Matches)
        return answer.matches

    async def close(self) -> None:
        """End the process."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
            self._ending = None
        async with self._turn:
            await self._end()

    async def _ask(self, request: ToModels) -> FromModels:
        """Raises `ModelUnavailable` where the process fails or says that it cannot."""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await self._answer(request)
            except BaseException as error:
                await self._end()  # its next message would be taken for the answer to another request
                if isinstance(error, TimeoutError | OSError | EOFError):
                    raise ModelUnavailable(f"the process of local models failed: {type(error).__name__}") from error
                raise
            self._used_at = time.monotonic()
            if self._ending is None:
                self._ending = asyncio.create_task(self._end_when_idle())
        if isinstance(answer, Failed):
            raise ModelUnavailable(f"the local models: {answer.reason}")
        return answer

    async def _answer(self, request: ToModels) -> FromModels:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(framed(encode(request)))
        await process.stdin.drain()
        head = await process.stdout.readexactly(LENGTH_BYTES)
        answer: FromModels = decode_answer(await process.stdout.readexactly(int.from_bytes(head, "little")))
        return answer

    async def _start(self) -> Process:
        self._process = await asyncio.create_subprocess_exec(
            *_COMMAND, str(self._folder), stdin=PIPE, stdout=PIPE, start_new_session=True,
            env={**environment(os.environ), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                 "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        return self._process

    async def _end_when_idle(self) -> None:
        while True:
            left = self._used_at + self._idle_seconds - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
                continue
            async with self._turn:
                if self._used_at + self._idle_seconds <= time.monotonic():
                    await self._end()
                    self._ending = None
                    return

    async def _end(self) -> None:
        """Kill it: it holds nothing that would be lost."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class BundledEmbedding:
    """The bundled model as an embedding model: it costs nothing, and nothing leaves this machine."""

    name = BUNDLED
    dimensions = BUNDLED_DIMENSIONS
    is_elsewhere = False
    is_paid = False

    def __init__(self, local: LocalModels) -> None:
        self._local = local

    async def embed(self, texts: Sequence[str]) -> tuple[Sequence[bytes], int]:
        """See `EmbeddingModel`."""
        return await self._local.embed(texts), 0

    async def close(self) -> None:
        """Nothing: the process is closed by whoever started it."""

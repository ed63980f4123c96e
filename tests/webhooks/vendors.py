"""The signing and verifying modules of the providers' own SDKs, read from their wheels (`requirements-providers.lock`).

Each SDK is imported as far as its webhooks go: the packages around them would take 13 s, 3,000 modules and five HTTP
libraries. What is left out is the client of the provider's API, of which verifying asks nothing.
"""

import importlib
import sys
import zipimport
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WHEELS = Path(sys.prefix) / "wheels"
"""Where `make setup` puts them."""


def wheel(distribution: str) -> str:
    """The path of a wheel; skips the test where it was not downloaded."""
    found = sorted(WHEELS.glob(f"{distribution}-*.whl"))
    if not found:
        pytest.skip(f"the wheel of {distribution} is not here: run `make setup`")
    return str(found[-1])


def module_of(distribution: str, path: str) -> ModuleType:
    """A module that imports nothing of its package: `retell/lib/webhook_auth`, say."""
    folder, _, name = path.rpartition("/")
    spec = zipimport.zipimporter(f"{wheel(distribution)}/{folder}").find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def packages(**found: Any) -> Iterator[None]:
    """Let packages be found in wheels, without running their `__init__`; `_` in a name stands for a dot.

    They are forgotten afterwards, with all that was imported of them. A mapping is a module with these members.
    """
    before = set(sys.modules)
    for name, content in found.items():
        module = ModuleType(name.replace("_", "."))
        module.__dict__.update(content if isinstance(content, dict) else {"__path__": content})
        sys.modules[module.__name__] = module
    try:
        yield
    finally:
        roots = tuple(name.partition("_")[0] for name in found)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in roots:
                del sys.modules[name]


def elevenlabs() -> Any:
    """`WebhooksClient` of elevenlabs, and the error that it raises."""
    folder = f"{wheel('elevenlabs')}/elevenlabs"
    client = {"WebhooksClient": object, "AsyncWebhooksClient": object}
    with packages(elevenlabs=[folder], elevenlabs_webhooks=[], elevenlabs_webhooks_client=client):
        module = importlib.import_module("elevenlabs.webhooks_custom")
        return module.WebhooksClient(), module.BadRequestError


def livekit() -> tuple[Any, Any]:
    """The modules `access_token` and `webhook` of livekit-api."""
    api, protocol = (f"{wheel(name)}/livekit" for name in ("livekit_api", "livekit_protocol"))
    with packages(livekit=[api, protocol], livekit_api=[f"{api}/api"]):
        return importlib.import_module("livekit.api.access_token"), importlib.import_module("livekit.api.webhook")

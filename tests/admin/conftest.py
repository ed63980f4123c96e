"""The admin listener of a spool, asked over a real socket by its operator."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pytest_aiohttp import AiohttpClient

from tests.admin.admin_app import AUTHORIZED, AskedSpoolAdmin, spool_admin


@pytest.fixture
async def admin(tmp_path: Path, aiohttp_client: AiohttpClient) -> AsyncIterator[AskedSpoolAdmin]:
    async with spool_admin(tmp_path, AskedSpoolAdmin) as made:
        made.client = await aiohttp_client(made.app, headers=AUTHORIZED)
        yield made

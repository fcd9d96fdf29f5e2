from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_service import FakeService
from tests.support.stage import Stage, on_stage


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with FakeService() as service:
        yield service


@pytest.fixture
async def stage(service: FakeService, tmp_path: Path) -> AsyncIterator[Stage]:
    async with on_stage(service.socket_path, tmp_path) as stage:
        yield stage

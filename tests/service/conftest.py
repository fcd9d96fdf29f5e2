"""One real service per test worker, with tiny models; it must still be alive and quiet at the end."""

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.service_process import ServiceProcess, model_table, running_service
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator

LABELS = ("negative", "neutral", "positive")
MAX_NUM_SEQS = 4
MAX_QUEUE = 6


@pytest.fixture(scope="module", autouse=True)
def modules_left_alone() -> Iterator[None]:
    """As in the service: what imports made is kept out of the collector's rounds, of which each unload takes one."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def mood_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_classifier(tmp_path_factory.mktemp("mood"), LABELS)


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can talk for a while: 32,768 tokens."""
    return save_tiny_generator(tmp_path_factory.mktemp("long"), n_positions=32768)


@pytest.fixture(scope="session")
def service(tiny_folder: Path, mood_folder: Path, long_folder: Path) -> Iterator[ServiceProcess]:
    models = model_table("tiny", tiny_folder, weights="float32") + model_table("long", long_folder)
    models += model_table("mood", mood_folder, "classify")
    limits = f"max_num_seqs = {MAX_NUM_SEQS}\nmax_queue = {MAX_QUEUE}"
    with running_service(models, limits) as started:
        yield started
        assert started.process.poll() is None, started.log
        assert "Traceback" not in started.log, started.log


@pytest.fixture
async def client(service: ServiceProcess) -> AsyncIterator[aiohttp.ClientSession]:
    async with service.client() as session:
        yield session

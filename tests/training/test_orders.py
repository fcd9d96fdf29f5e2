""" "auto" fits the number of jokes; a job that cannot fit on the disk is refused before it starts. No torch here."""

import json
from pathlib import Path

import pytest

from model_service.errors import RequestRefused
from model_service.training import orders
from model_service.training.orders import Order, Start, write_job
from model_service.training.recipe import Adapter, resolve
from tests.support.training_jobs import fake_base, make_rows

ORDER = Order(model="tiny", training_file="file-1", adapter="full")


@pytest.mark.parametrize("num_train", [50, 113, 400, 5000])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_auto_gives_every_collection_enough_steps(num_train: int, adapter: Adapter) -> None:
    recipe = resolve(num_train=num_train, adapter=adapter, seed=1)
    assert 40 <= recipe.total_steps(num_train) <= max(200, num_train / recipe.batch_size + 1)


def test_what_was_asked_for_is_used() -> None:
    recipe = resolve(num_train=100, adapter="full", seed=1, n_epochs=2, batch_size=7, learning_rate_multiplier=0.5)
    auto = resolve(num_train=100, adapter="full", seed=1)
    assert (recipe.n_epochs, recipe.batch_size, recipe.total_steps(100)) == (2, 7, 30)
    assert recipe.learning_rate == auto.learning_rate / 2


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = resolve(num_train=100, adapter="full", seed=1)
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert rates.index(max(rates)) in (9, 10)
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(recipe.learning_rate / 10, rel=0.15)


def test_a_job_that_does_not_fit_on_the_disk_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = fake_base(tmp_path / "base")
    header = json.dumps({"w": {"dtype": "F16", "shape": [1024, 1024], "data_offsets": [0, 0]}}).encode()
    (base / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    start = Start(base, "tiny")
    assert 60 * 2**20 < write_job(tmp_path / "jobs", ORDER, start, make_rows(), None).job["disk_bytes"] < 70 * 2**20
    usage = orders.shutil.disk_usage(tmp_path)._replace(free=20 * 2**20)
    monkeypatch.setattr(orders.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RequestRefused, match=r"6\d MiB of disk, but 20 MiB are free") as raised:
        write_job(tmp_path / "jobs", ORDER, start, make_rows(), None)
    assert raised.value.code == "disk_full"


def test_a_seed_is_chosen_when_none_is_given(tmp_path: Path) -> None:
    base = fake_base(tmp_path / "base")
    seeds = {
        write_job(tmp_path / "jobs", ORDER, Start(base, "tiny"), make_rows(), None).job["recipe"]["seed"]
        for _ in range(3)
    }
    assert len(seeds) == 3

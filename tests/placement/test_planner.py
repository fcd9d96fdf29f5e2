"""The planner as the pool asks it: settings in, a place or a sentence out."""

import json
from pathlib import Path

import pytest

from model_service.config import ModelSettings, ServiceSettings
from model_service.models.folder import CheckpointError
from model_service.placement.plan import Device, ModelPlan, PlanRefused
from model_service.placement.planner import DevicePlanner
from model_service.placement.room import NoRoom
from model_service.placement.wishes import Machine, Wishes, with_reserve
from tests.placement.builders import GIB, MIB, gpus, known
from tests.support.tiny_models import save_tiny_classifier, save_tiny_generator


def spec(name: str, source: str | Path = "", **wishes: object) -> ModelSettings:
    return ModelSettings.model_validate({"name": name, "source": str(source or f"openai-community/{name}"), **wishes})


def planner(
    *devices: Device, specs: tuple[ModelSettings, ...] = (), reserve: int | str = "none", **service: object
) -> DevicePlanner:
    settings = ServiceSettings.model_validate(service)
    return DevicePlanner(specs, settings, lambda: Machine(devices), reserve)


def devices_of(placed: ModelPlan) -> list[str]:
    return [stage.device for stage in placed.stages]


def test_models_are_planned_together_so_that_the_first_leaves_room_for_the_rest() -> None:
    specs = tuple(spec(name) for name in ("gpt2", "gpt2-medium", "gpt2-large"))
    rooms = planner(*gpus(6), specs=specs)
    loaded: list[ModelPlan] = []
    for one in specs:
        loaded.append(rooms.place(one, loaded))
    assert {model.name: model for model in loaded} == {model.name: model for model in rooms.together().models}
    used = {device.name: device.used_bytes for device in rooms.devices(loaded)}
    assert used == rooms.together().used()
    alone = planner(*gpus(6), specs=specs[-1:]).place(specs[-1], [])
    assert alone.slots > loaded[-1].slots


def test_what_does_not_fit_beside_the_others_fits_once_they_are_gone() -> None:
    xl, large = spec("gpt2-xl"), spec("gpt2-large")
    rooms = planner(*gpus(5), specs=(xl, large), max_num_seqs=1)
    first = rooms.place(xl, [])
    with pytest.raises(NoRoom, match=r"gpt2-large does not fit beside the others: it needs .* cuda:0 \d"):
        rooms.place(large, [first])
    assert devices_of(rooms.place(large, [])) == ["cuda:0"]


def test_what_never_fits_is_refused_with_the_numbers() -> None:
    with pytest.raises(PlanRefused, match=r"gpt2-xl does not fit: it needs .* cuda:0 2\.9 GiB\."):
        planner(*gpus(3)).place(spec("gpt2-xl"), [])


def test_weights_that_replace_others_go_beside_them() -> None:
    tuned = spec("gpt2", "openai-community/gpt2")
    rooms = planner(*gpus(8), specs=(tuned,))
    old = rooms.place(tuned, [])
    new = rooms.place(tuned, [old])
    assert devices_of(new) == devices_of(old) == ["cuda:0"]
    (device,) = rooms.devices([old, new])
    assert device.used_bytes == old.device_bytes["cuda:0"] + new.device_bytes["cuda:0"] <= device.total_bytes


def test_folders_are_read_by_their_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "gpt2", "vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
        )
    )
    placed = planner(*gpus(1)).place(spec("tiny", tmp_path), [])
    assert [list(stage.layers) for stage in placed.stages] == [[0, 1]]


def test_what_cannot_be_read_is_said_to_whoever_wants_it_and_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    bad, gone, good = spec("bert", tmp_path), spec("gone", "/nowhere/at/all"), spec("gpt2")
    rooms = planner(*gpus(8), specs=(bad, gone, good))
    assert rooms.place(good, []).stages
    with pytest.raises(CheckpointError, match="its model_type is 'bert'"):
        rooms.place(bad, [])
    with pytest.raises(CheckpointError, match="/nowhere/at/all is neither a folder nor a hub id"):
        rooms.place(gone, [])


def test_a_list_of_devices_and_formats_reach_the_plan() -> None:
    rooms = planner(*gpus(8, 8), Device("cpu", "cpu", 8 * GIB))
    assert devices_of(rooms.place(spec("gpt2", devices=["cuda:1"]), [])) == ["cuda:1"]
    assert rooms.place(spec("gpt2", devices=["cpu"]), []).weights == "int8"
    assert rooms.place(spec("gpt2", weights="float32"), []).weights == "float32"
    with pytest.raises(PlanRefused, match="gpt2 is to go on cuda:9; the devices here are cuda:0, cuda:1, cpu"):
        rooms.place(spec("gpt2", devices=["cuda:9"]), [])


def test_the_margin_and_the_cpu_are_settings() -> None:
    devices = (*gpus(4), Device("cpu", "cpu", 8 * GIB))
    with pytest.raises(PlanRefused):
        planner(*devices, memory_margin=0.2).place(spec("gpt2-xl"), [])
    assert devices_of(planner(*devices, memory_margin=0.2, allow_cpu=True).place(spec("gpt2-xl"), []))[-1] == "cpu"


def test_classifiers_are_counted_with_their_labels(tmp_path: Path) -> None:
    placed = planner(*gpus(1)).place(spec("mood", save_tiny_classifier(tmp_path), task="classify"), [])
    assert (placed.slots, placed.weights) == (0, "float16")


def test_adapters_take_room_on_their_base_and_none_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "gpt2"}')
    base, adapter = spec("gpt2"), spec("jokes", tmp_path)
    with_adapter = planner(*gpus(8), specs=(base, adapter))
    assert with_adapter.place(adapter, []).device_bytes == {}
    more = (
        with_adapter.place(base, []).device_bytes["cuda:0"] - planner(*gpus(8)).place(base, []).device_bytes["cuda:0"]
    )
    assert more == 9 * 12 * 16 * 16 * 768 * 2, "its matrices and eight places: layers, rank, widths, FP16"


def test_a_hub_id_that_leads_to_an_adapter_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("model_service.placement.wishes.find_folder", lambda source, wanted: tmp_path)
    adapter = spec("jokes", "somebody/jokes-lora")
    rooms = planner(*gpus(8), specs=(adapter,))
    assert rooms.place(adapter, []).stages == ()


def test_with_training_on_a_model_has_room_for_one_adapter_more() -> None:
    with_training = planner(*gpus(8), reserve=GIB).place(spec("gpt2"), []).device_bytes["cuda:0"]
    assert with_training - planner(*gpus(8)).place(spec("gpt2"), []).device_bytes["cuda:0"] == 9 * 12 * 256 * 768 * 2


def test_training_keeps_memory_on_the_device_where_it_runs() -> None:
    machine = Machine((*gpus(8, 8), Device("cpu", "cpu", 8 * GIB)))
    models = [known("gpt2"), known("gpt2-xl")]
    assert [d.used_bytes for d in with_reserve(machine, 3 * GIB, models).devices] == [3 * GIB, 0, 0]
    assert with_reserve(machine, "none", models) == machine
    weights = 4 * 124_439_808
    assert with_reserve(machine, "auto", models).devices[0].used_bytes == GIB + weights, "for the smallest of them"
    only_cpu = with_reserve(Machine((Device("cpu", "cpu", 8 * GIB, GIB),)), "auto", models)
    assert only_cpu.devices[0].used_bytes == GIB + 512 * MIB + weights
    assert with_reserve(machine, "auto", []) == machine


def test_nothing_is_kept_for_training_where_a_model_would_have_no_place_for_it() -> None:
    xl = spec("gpt2-xl")
    rooms = planner(*gpus(8), specs=(xl,), reserve="auto")
    assert rooms.place(xl, []).stages, "6 GB of float32 weights to train it would leave no room to run it"
    roomy = planner(*gpus(16), specs=(xl,), reserve="auto").place(xl, [])
    assert roomy.device_bytes["cuda:0"] < 16 * GIB - 4 * 1_557_611_200
    with pytest.raises(PlanRefused, match="gpt2-xl does not fit: "):
        planner(*gpus(8), specs=(xl,), reserve=6 * GIB).place(xl, [])


def test_the_format_of_auto_is_measured_only_where_a_cpu_may_be_used(tmp_path: Path) -> None:
    asked: list[int] = []

    def fastest(shape: object) -> tuple[str, str]:
        asked.append(1)
        return "bfloat16", "float32"

    folder = save_tiny_generator(tmp_path)
    devices = (*gpus(1), Device("cpu", "cpu", GIB))
    service = ServiceSettings()
    with_gpu = Wishes(Machine(devices, fastest=fastest), service)
    assert with_gpu.wanted(spec("tiny", folder)).cpu_weights == "int8"
    assert not asked
    assert with_gpu.wanted(spec("tiny", folder, devices=["cpu"])).cpu_weights == "bfloat16"
    assert with_gpu.wanted(spec("tiny", folder, devices=["cpu"], weights="float32")).weights == "float32"
    assert Wishes(Machine(devices[1:], fastest=fastest), service).wanted(spec("tiny", folder)).cut_weights == "float32"
    assert len(asked) == 2

"""Where the known variants go, and what people are told."""

import re
from dataclasses import replace

import pytest

from model_service.placement.plan import Device, ModelPlan, Plan, Wanted, plan
from model_service.placement.sizes import Sizes
from model_service.placement.variants import VARIANTS
from tests.placement.builders import GIB, MIB, cpu, gpus, known

AMOUNT = r"\d+(\.\d)? [GM]iB"  # that hangs on estimates
GPT2_SIZES = ("distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def layers(model: ModelPlan) -> dict[str, tuple[int, int]]:
    return {stage.device: (stage.layers[0], stage.layers[-1]) for stage in model.stages}


def where(made: Plan) -> dict[str, list[str]]:
    return {model.name: [stage.device for stage in model.stages] for model in made.models}


def only(made: Plan) -> ModelPlan:
    (model,) = made.models
    return model


def test_a_model_goes_whole_on_the_fullest_gpu_that_has_room() -> None:
    made = plan(gpus(24, 8, 12), [known("gpt2-xl", max_slots=8)])
    assert layers(only(made)) == {"cuda:1": (0, 47)}
    assert only(made).weights == "float16"
    assert only(made).why == (
        "Fits whole on cuda:1, the fullest GPU that has room for it; room for all 8 sequences that may run at once."
    )


def test_the_biggest_is_placed_first_and_all_five_fit_two_small_cards() -> None:
    made = plan(gpus(8, 8), [known(name) for name in GPT2_SIZES])
    assert not made.refused
    assert {name: len(devices) for name, devices in where(made).items()} == dict.fromkeys(GPT2_SIZES, 1)
    assert set(where(made)["gpt2-xl"]).isdisjoint(where(made)["gpt2-large"])
    slots = {model.name: model.slots for model in made.models}
    assert 1 < slots["gpt2-xl"] < 16, "room is shared, not given to whoever comes first"
    assert max(slots.values()) - min(slots.values()) < 8


def test_what_no_gpu_holds_is_cut_into_even_parts_over_the_fewest() -> None:
    made = plan(gpus(10, 10, 10, used=512 * MIB), [known("gpt-j-6b"), known("gpt2-xl")])
    placed = {model.name: model for model in made.models}
    assert layers(placed["gpt-j-6b"]) == {"cuda:0": (0, 13), "cuda:1": (14, 27)}
    assert layers(placed["gpt2-xl"]) == {"cuda:2": (0, 47)}
    parts = placed["gpt-j-6b"].device_bytes
    assert abs(parts["cuda:0"] - parts["cuda:1"]) < 402 * 10**6, "less than a layer: 12 E^2 weights in FP16"
    assert re.match(
        rf"Needs {AMOUNT} in one piece, with one sequence, and no GPU has more than 9\.0 GiB: its layers go on"
        r" cuda:0 and cuda:1, balanced by bytes; room for \d+ of 16 sequences at once\.$",
        placed["gpt-j-6b"].why,
    )


def test_an_empty_machine_is_used_whole_for_more_sequences() -> None:
    on_two, on_three = (only(plan(gpus(*[10] * n), [known("gpt-j-6b")])) for n in (2, 3))
    assert (len(on_two.stages), len(on_three.stages)) == (2, 3)
    assert on_two.slots < on_three.slots


def test_sequences_shrink_to_what_is_left_but_never_to_none() -> None:
    sizes = Sizes(VARIANTS["gpt2-xl"])
    for slots in (16, 5, 1):
        room = sizes.total(sizes.all_layers, "float16", "gpu", slots)
        made = plan([Device("cuda:0", "gpu", room)], [known("gpt2-xl")], margin=0)
        assert (only(made).slots, only(made).device_bytes["cuda:0"]) == (slots, room)
    made = plan([Device("cuda:0", "gpu", room - 1)], [known("gpt2-xl")], margin=0)
    assert not made.models
    assert made.refused["gpt2-xl"].for_ever


def test_the_margin_and_what_others_use_are_left_alone() -> None:
    sizes = Sizes(VARIANTS["gpt2"])
    need = sizes.total(sizes.all_layers, "float16", "gpu", 1)
    for used, margin, room in ((0, 0.0, need), (GIB, 0.0, need + GIB), (GIB, 0.5, 2 * (need + GIB))):
        assert plan([Device("cuda:0", "gpu", room, used)], [known("gpt2")], margin=margin).models
        assert not plan([Device("cuda:0", "gpu", room - 2, used)], [known("gpt2")], margin=margin).models


def test_the_cpu_takes_the_rest_if_that_is_allowed_and_the_gpu_all_it_can() -> None:
    devices = [*gpus(4, used=512 * MIB), cpu(16)]
    assert (
        plan(devices, [known("gpt2-xl")])
        .refused["gpt2-xl"]
        .why.endswith(" With service.allow_cpu = true what is left over would go on the CPU, where it is slower.")
    )
    made = plan(devices, [known("gpt2-xl")], allow_cpu=True)
    there = layers(only(made))
    assert list(there) == ["cuda:0", "cpu"]
    assert there["cuda:0"][1] >= 23, "at least half of the layers"
    assert only(made).weights == "float16"
    assert made.used()["cuda:0"] > 3.2 * GIB
    assert "the GPUs take all they can, cpu the rest" in only(made).why


def test_what_a_gpu_would_only_hold_a_corner_of_goes_whole_on_the_cpu() -> None:
    made = plan([*gpus(2), cpu(16)], [known("gpt2-xl", cpu_weights="int8")], allow_cpu=True)
    assert layers(only(made)) == {"cpu": (0, 47)}
    assert only(made).weights == "int8"
    assert only(made).why.startswith("No room on the GPUs, so it runs whole on cpu; ")


def test_without_a_gpu_the_cpu_needs_no_permission() -> None:
    made = plan([cpu(4)], [known("gpt2", cpu_weights="bfloat16")])
    assert (layers(only(made)), only(made).weights) == ({"cpu": (0, 11)}, "bfloat16")


def test_budgets_of_the_cpu_are_devices_of_their_own() -> None:
    devices = [Device(f"cpu:{i}", "cpu", 5 * GIB // 2) for i in (0, 1)]
    made = plan(devices, [known("gpt2-large", cut_weights="float32", cpu_weights="float32", max_slots=1)])
    assert list(layers(only(made))) == ["cpu:0", "cpu:1"]
    assert only(made).weights == "float32"


def test_a_list_of_devices_keeps_a_model_on_them_and_one_means_whole() -> None:
    devices = gpus(10, 10, 10)
    assert where(plan(devices, [known("gpt-j-6b", devices=("cuda:1", "cuda:2"))])) == {"gpt-j-6b": ["cuda:1", "cuda:2"]}
    assert where(plan(devices, [known("gpt2", devices=("cuda:2",))])) == {"gpt2": ["cuda:2"]}
    refused = plan(devices, [known("gpt-j-6b", devices=("cuda:2",))]).refused["gpt-j-6b"].why
    assert re.fullmatch(
        rf"gpt-j-6b does not fit: it needs {AMOUNT} \(float16 weights 11\.3 GiB, one sequence 898 MiB, working memory"
        rf' {AMOUNT}\), and there is free: cuda:2 9\.5 GiB\. Its devices are set; "auto" would look at all of them\.',
        refused,
    ), refused


def test_the_cpu_may_be_named_on_a_machine_with_gpus() -> None:
    devices = [*gpus(8), cpu(8)]
    assert where(plan(devices, [known("gpt2", devices=("cpu",), weights="int8")])) == {"gpt2": ["cpu"]}
    assert where(plan(devices, [known("gpt2", devices=("cuda",))])) == {"gpt2": ["cuda:0"]}


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"devices": ("cuda:7",)}, "gpt2 is to go on cuda:7; the devices here are cuda:0, cpu."),
        (
            {"weights": "int8"},
            'gpt2 has weights = "int8", which run on a CPU only: set devices = ["cpu"], or other weights.',
        ),
    ],
)
def test_wishes_that_cannot_come_true_are_told_apart_from_a_lack_of_room(
    wishes: dict[str, object], sentence: str
) -> None:
    refusal = plan([*gpus(8), cpu(8)], [known("gpt2", **wishes)]).refused["gpt2"]
    assert (refusal.why, refusal.for_ever) == (sentence, True)


def test_what_does_not_fit_beside_the_others_says_what_is_free() -> None:
    made = plan(gpus(5), [known("gpt2-xl", max_slots=1), known("gpt2-large", max_slots=1)], margin=0)
    refusal = made.refused["gpt2-large"]
    assert where(made) == {"gpt2-xl": ["cuda:0"]}
    assert not refusal.for_ever, "without gpt2-xl it would fit"
    assert re.fullmatch(
        rf"gpt2-large does not fit beside the others: it needs {AMOUNT} \(float16 weights 1\.4 GiB, one sequence"
        rf" 182 MiB, working memory {AMOUNT}\), and there is free: cuda:0 {AMOUNT}\.",
        refusal.why,
    ), refusal.why


def test_one_more_model_moves_no_other_if_it_fits_elsewhere() -> None:
    devices = gpus(10, 10, 10)
    before = plan(devices, [known("gpt-j-6b", max_slots=4)])
    after = plan(devices, [known("gpt-j-6b", max_slots=4), known("gpt2", max_slots=4)])
    assert after.models[0] == before.models[0]
    kept = plan(devices, [known("gpt2-xl")], kept=before.models)
    assert set(where(kept)["gpt2-xl"]).isdisjoint(where(before)["gpt-j-6b"])


def test_what_is_loaded_takes_room_and_keeps_it() -> None:
    devices = gpus(8)
    loaded = plan(devices, [known("gpt2-xl", max_slots=4)]).models
    beside = plan(devices, [known("gpt2-medium")], kept=loaded)
    assert where(beside) == {"gpt2-medium": ["cuda:0"]}
    assert only(beside).device_bytes["cuda:0"] + loaded[0].device_bytes["cuda:0"] <= devices[0].budget(0.05)
    assert plan(devices, [known("gpt-j-6b")], kept=loaded).refused["gpt-j-6b"].for_ever


def test_a_classifier_keeps_no_sequences_and_is_never_cut() -> None:
    sizes = replace(Sizes(VARIANTS["gpt2-xl"]), labels=3)
    judge = Wanted("judge", sizes)
    made = plan(gpus(6), [judge])
    assert (only(made).slots, layers(only(made))) == (0, {"cuda:0": (0, 47)})
    assert "it classifies, and keeps nothing between texts." in only(made).why
    assert plan(gpus(2, 2, 2), [judge]).refused["judge"].for_ever

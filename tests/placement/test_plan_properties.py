"""What holds for every plan, over a few hundred random machines and sets of models."""

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise, permutations

import pytest

from model_service.placement.cuts import EVEN_BYTES
from model_service.placement.plan import Device, ModelPlan, Plan, Wanted, plan
from model_service.placement.sizes import Sizes
from tests.placement.builders import random_devices, random_models, random_shape

SEEDS = range(300)


class Case:
    """A random machine with models, and its plan."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.devices = random_devices(self.rng)
        self.models = random_models(self.rng, self.devices)
        self.by_name = {model.name: model for model in self.models}
        self.margin, self.allow_cpu = self.rng.choice([0, 0.05, 0.2]), self.rng.random() < 0.5
        self.rooms = {device.name: device.budget(self.margin) for device in self.devices}
        self.plan = self.planned(self.devices, self.models)

    def planned(self, devices: Sequence[Device], models: Sequence[Wanted], kept: Sequence[ModelPlan] = ()) -> Plan:
        return plan(devices, models, margin=self.margin, allow_cpu=self.allow_cpu, kept=kept)

    def allowed(self, model: Wanted) -> list[Device]:
        allow_cpu = self.allow_cpu or all(device.kind == "cpu" for device in self.devices)
        return [device for device in self.devices if model.may_use(device, allow_cpu=allow_cpu)]

    def kind(self, name: str) -> str:
        return next(device.kind for device in self.devices if device.name == name)

    def rooms_beside_bigger(self, model: Wanted) -> dict[str, int]:
        """What bigger models leave of each device when they keep room for one sequence."""
        rooms = dict(self.rooms)
        for placed in self.plan.models:
            other = self.by_name[placed.name]
            if size_order(other) < size_order(model):
                for stage in placed.stages:
                    kind = "gpu" if self.kind(stage.device) == "gpu" else "cpu"
                    rooms[stage.device] -= other.sizes.total(stage.layers, placed.weights, kind, other.least_slots)
        return rooms


def size_order(model: Wanted) -> tuple[int, str]:
    return -model.sizes.weights(model.sizes.all_layers, "float16"), model.name


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [Case(seed) for seed in SEEDS]


def test_the_random_cases_hold_whole_cut_and_refused_models(cases: list[Case]) -> None:
    models = [model for case in cases for model in case.plan.models]
    assert sum(len(model.stages) == 1 for model in models) > 100
    assert sum(len(model.stages) > 1 for model in models) > 10
    assert sum(refusal.for_ever for case in cases for refusal in case.plan.refused.values()) > 10
    assert sum(not refusal.for_ever for case in cases for refusal in case.plan.refused.values()) > 10


def test_no_device_is_ever_over_its_budget_and_bytes_are_those_of_the_parts(cases: list[Case]) -> None:
    for case in cases:
        assert all(used <= case.rooms[name] for name, used in case.plan.used().items())
        for placed in case.plan.models:
            sizes = case.by_name[placed.name].sizes
            for stage in placed.stages:
                kind = "gpu" if case.kind(stage.device) == "gpu" else "cpu"
                expected = sizes.total(stage.layers, placed.weights, kind, placed.slots)
                assert placed.device_bytes[stage.device] == expected


def test_every_layer_is_placed_once_in_order_on_devices_the_model_may_use(cases: list[Case]) -> None:
    for case in cases:
        names = [model.name for model in case.plan.models] + list(case.plan.refused)
        assert sorted(names) == sorted(case.by_name), "each model has a place or a reason"
        for placed in case.plan.models:
            model = case.by_name[placed.name]
            layers = [layer for stage in placed.stages for layer in stage.layers]
            assert layers == list(range(model.sizes.shape.n_layer))
            there = [stage.device for stage in placed.stages]
            assert len(set(there)) == len(there)
            assert set(there) <= {device.name for device in case.allowed(model)}
            assert model.least_slots <= placed.slots <= (model.max_slots if model.least_slots else 0)
            assert placed.why.endswith(".")


def test_the_order_in_which_devices_and_models_are_named_does_not_matter(cases: list[Case]) -> None:
    for case in cases:
        devices, models = list(case.devices), list(case.models)
        case.rng.shuffle(devices)
        case.rng.shuffle(models)
        assert case.planned(devices, models) == case.plan


def test_what_is_loaded_stays_and_nothing_that_is_added_goes_over_the_budget(cases: list[Case]) -> None:
    for case in cases:
        kept = [model for model in case.plan.models if case.rng.random() < 0.5]
        names = {model.name for model in kept}
        added = case.planned(case.devices, [model for model in case.models if model.name not in names], kept)
        assert names.isdisjoint(model.name for model in added.models)
        for name, room in case.rooms.items():
            assert sum(model.device_bytes.get(name, 0) for model in (*kept, *added.models)) <= room
        again = [*kept, *added.models]
        assert case.planned(case.devices, [], again).models == (), "with nothing to place, nothing changes"


def test_a_model_is_cut_only_where_no_device_holds_it_whole(cases: list[Case]) -> None:
    for case in cases:
        for placed in case.plan.models:
            if len(placed.stages) > 1:
                assert not whole_places(case, case.by_name[placed.name], "gpu")


def test_a_model_is_refused_only_where_no_device_and_no_cut_over_devices_holds_it(cases: list[Case]) -> None:
    for case in cases:
        for name in case.plan.refused:
            model = case.by_name[name]
            assert not whole_places(case, model, "gpu")
            assert not whole_places(case, model, "cpu")
            rooms = case.rooms_beside_bigger(model)
            for kind in () if model.sizes.labels else ("gpu", "cpu"):
                there = [device for device in case.allowed(model) if device.kind == kind]
                assert not any(fits(model, chosen, rooms) for chosen in orders(there)), (name, kind)


def test_the_largest_part_of_a_cut_is_as_small_as_it_can_be() -> None:
    num_cut = 0
    for seed in range(800):  # one model is quick, and seldom cut
        rng = random.Random(seed)
        devices = [device for device in random_devices(rng) if device.kind == "gpu"]
        sizes = Sizes(random_shape(rng))
        for placed in plan(devices, [Wanted("model", sizes, max_slots=1)], margin=0).models:
            if len(placed.stages) > 1:
                num_cut += 1
                there = [next(d for d in devices if d.name == stage.device) for stage in placed.stages]
                largest = min(max(parts) for parts in cuts(sizes, there))
                assert largest <= max(placed.device_bytes.values()) <= largest + EVEN_BYTES
    assert num_cut > 10


def cuts(sizes: Sizes, devices: Sequence[Device]) -> Iterator[list[int]]:
    """Bytes of the parts, for every cut of a model over these devices in this order that fits them."""
    end = sizes.shape.n_layer
    for places in combinations(range(1, end), len(devices) - 1):
        bounds = [0, *places, end]
        parts = [sizes.total(range(*pair), "float16", "gpu", 1) for pair in pairwise(bounds)]
        if all(size <= device.budget(0) for size, device in zip(parts, devices, strict=True)):
            yield parts


def whole_places(case: Case, model: Wanted, kind: str) -> list[str]:
    """Devices that hold a model whole beside the bigger ones."""
    rooms, sizes = case.rooms_beside_bigger(model), model.sizes
    return [
        d.name
        for d in case.allowed(model)
        if d.kind == kind
        and sizes.total(sizes.all_layers, model.format_on((d.kind,), 1), d.kind, model.least_slots) <= rooms[d.name]
    ]


def orders(devices: Sequence[Device]) -> Iterator[tuple[Device, ...]]:
    for count in range(2, len(devices) + 1):
        yield from permutations(devices, count)


def fits(model: Wanted, chosen: Sequence[Device], rooms: Mapping[str, int]) -> bool:
    """Whether the layers can be cut over these devices in this order: by trying, one layer after the other."""
    weights, start = model.format_on([d.kind for d in chosen], len(chosen)), 0
    for place, device in enumerate(chosen):
        most = model.sizes.shape.n_layer - (len(chosen) - 1 - place)
        stops = range(most, start, -1) if place < len(chosen) - 1 else [most]
        room = rooms[device.name]
        start = next(
            (
                stop
                for stop in stops
                if stop > start and model.sizes.total(range(start, stop), weights, device.kind, 1) <= room
            ),
            -1,
        )
        if start < 0:
            return False
    return True

"""The memory there is: of the machine or the container, less what others use, and at most what the settings allow."""

from pathlib import Path

import pytest

from model_service.placement.inventory import capped, cpu, without
from model_service.placement.plan import Device, PlanRefused
from tests.placement.builders import GIB

MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:   12582912 kB\nHugePages_Total:       0\n"
)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    return tmp_path / "proc"


def group(folder: Path, **files: str) -> Path:
    """A control group's folder."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_machine_has_its_memory_and_others_use_what_is_not_available(proc: Path, tmp_path: Path) -> None:
    assert cpu(proc, tmp_path / "none") == Device("cpu", "cpu", 16 * GIB, 4 * GIB)


def test_a_container_has_its_limit_and_what_the_system_takes_back_is_free(proc: Path, tmp_path: Path) -> None:
    stat = f"anon {GIB}\nfile {2 * GIB}\ninactive_file {2 * GIB}\n"
    limits = group(
        tmp_path / "v2", memory_dot_max=f"{8 * GIB}\n", memory_dot_current=f"{3 * GIB}\n", memory_dot_stat=stat
    )
    assert cpu(proc, limits) == Device("cpu", "cpu", 8 * GIB, GIB)


def test_an_older_control_group_is_read_too(proc: Path, tmp_path: Path) -> None:
    limits = group(
        tmp_path / "v1",
        memory__memory_dot_limit_in_bytes=f"{8 * GIB}\n",
        memory__memory_dot_usage_in_bytes=f"{3 * GIB}\n",
        memory__memory_dot_stat=f"total_inactive_file {GIB}\n",
    )
    assert cpu(proc, limits) == Device("cpu", "cpu", 8 * GIB, 2 * GIB)


@pytest.mark.parametrize("limit", ["max\n", f"{64 * GIB}\n"])
def test_a_limit_above_the_machine_is_none(proc: Path, tmp_path: Path, limit: str) -> None:
    assert cpu(proc, group(tmp_path / "v2", memory_dot_max=limit)) == Device("cpu", "cpu", 16 * GIB, 4 * GIB)


def test_this_machine_is_read() -> None:
    device = cpu()
    assert 0 < device.used_bytes < device.total_bytes


def test_a_cap_leaves_what_others_use_out_as_long_as_there_is_more_beside_it() -> None:
    card = Device("cuda:0", "gpu", 10 * GIB, 3 * GIB)
    assert capped((card,), {"cuda:0": 8 * GIB}) == (Device("cuda:0", "gpu", 8 * GIB, GIB),)
    assert capped((card,), {"cuda:0": 4 * GIB}) == (Device("cuda:0", "gpu", 4 * GIB, 0),)
    assert capped((card,), {"cuda:0": 80 * GIB}) == (card,)


def test_named_parts_of_the_cpu_take_its_place() -> None:
    there = (Device("cuda:0", "gpu", GIB), Device("cpu", "cpu", 16 * GIB))
    parts = capped(there, {"cpu:0": GIB, "cpu:1": 2 * GIB})
    assert [(d.name, d.kind, d.total_bytes) for d in parts] == [
        ("cuda:0", "gpu", GIB),
        ("cpu:0", "cpu", GIB),
        ("cpu:1", "cpu", 2 * GIB),
    ]


def test_a_cap_on_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(PlanRefused, match=r"service.device_memory names cuda:3; the devices here are cpu\."):
        capped((Device("cpu", "cpu", GIB),), {"cuda:3": GIB})


def test_a_cap_on_the_whole_cpu_and_on_parts_of_it_contradict_each_other() -> None:
    with pytest.raises(PlanRefused, match="names the CPU whole and in parts"):
        capped((Device("cpu", "cpu", GIB),), {"cpu": GIB, "cpu:0": GIB})


def test_what_our_own_service_has_loaded_is_not_others() -> None:
    there = (Device("cuda:0", "gpu", 8 * GIB, 5 * GIB), Device("cpu", "cpu", 8 * GIB, 4 * GIB))
    left = without(there, {"cuda:0": 4 * GIB, "cpu:0": GIB, "cpu:1": GIB, "cuda:7": GIB})
    assert [device.used_bytes for device in left] == [GIB, 2 * GIB]
    assert without(there[:1], {"cuda:0": 6 * GIB})[0].used_bytes == 0


def test_a_system_that_tells_nothing_but_its_size_is_taken_as_empty(tmp_path: Path) -> None:
    device = cpu(tmp_path, tmp_path)
    assert device.used_bytes == 0
    assert device.total_bytes >= cpu().total_bytes * 0.99, "a container may have less"

"""The measurements end to end on tiny models: what they print, what they leave out, what they promise."""

import importlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_service.bench import gaps, growth, quality, serve, throughput
from model_service.bench.arrivals import percentile, step_s
from model_service.bench.contestants import Entry
from model_service.bench.machine import Machine, cpu_name
from model_service.bench.models import open_model
from model_service.bench.session import Session, busy, open_session
from model_service.bench.task import Task
from model_service.bench.texts import Text, default_texts, read_texts
from model_service.bench.throughput import Plan
from tests.operations.builders import clean_environment
from tests.support.tiny_models import save_tiny_generator

SIX = ["engine", "model", "weights", "batch", "tokens_per_s", "ratio_to_best_peer"]
MACHINE = Machine("a desk", 24.0, 50.0, False, "2.13", "2026-01-01")


@dataclass(frozen=True, slots=True)
class QuickSession(Session):
    """A session that does not measure the memory."""

    def machine(self) -> Machine:
        return MACHINE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_generator(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, which has torch already; children have tests of their own."""

    def here(log: Path, function: str, *args: object) -> Any:
        module, _, name = function.rpartition(".")
        return getattr(importlib.import_module(f"model_service.bench.{module}"), name)(*args)

    for module in (gaps, growth, quality):
        monkeypatch.setattr(module, "in_child", here)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with open_session("cpu", tmp_path / "cache") as opened:
        yield QuickSession(opened.cache, "cpu", opened.progress, opened.failures)


def test_decode_has_figures_and_ratios_for_both_engines_and_goes_on_without_a_broken_model(
    tiny: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [Entry("punchline", "auto"), Entry("transformers", "float32")]
    monkeypatch.setattr(throughput, "entries", lambda *args, **kwargs: both)
    (broken := tmp_path / "broken").mkdir()
    plan = Plan("decode", (str(broken), str(tiny)), (1, 2), ("punchline", "transformers"), 2)
    report = throughput.measure(plan, session)
    assert session.failures == [f"{broken} is left out: {broken} has no config.json: it is no checkpoint"]
    assert all(list(found) == SIX for found in report.objects)
    engines = [(found["engine"], found["model"], found["batch"]) for found in report.objects]
    assert engines == [(engine, "tiny", batch) for engine in ("punchline", "transformers") for batch in (1, 2)]
    assert all(found["tokens_per_s"] > 0 and found["ratio_to_best_peer"] > 0 for found in report.objects)
    assert [f["ratio_to_best_peer"] for f in report.objects if f["engine"] == "transformers"] == [1, 1]
    assert report.columns == ("model", "engine", "weights", "batch 1", "ratio", "batch 2", "ratio", "of the bandwidth")
    assert {len(row) for row in report.rows} == {8}
    assert report.objects[0]["weights"] != "auto", "it says what was chosen"


def test_prompts_that_do_not_fit_are_cut_to_the_context(tiny: Path, session: Session) -> None:
    model = open_model(str(tiny), session.cache, session.log)
    plan = Plan("prefill", (str(tiny),), (4,), ("punchline",), 1)
    assert plan.task(model, 4) == Task(batch=4, prompt_len=127, new_tokens=1)
    assert plan.tokens(plan.task(model, 4)) == 508, "tokens of prompts are counted"


def test_engines_that_are_not_installed_are_left_out_with_the_way_to_get_them(
    tiny: Path, session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    hidden = {"llama_cpp", "gguf", "ctranslate2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else real(name))
    with open_session("cpu", session.cache) as opened:
        plan = Plan("decode", (str(tiny),), (1,), ("llama.cpp", "ctranslate2"), 1)
        report = throughput.measure(plan, QuickSession(opened.cache, "cpu", opened.progress, opened.failures))
    assert report.rows == []
    assert opened.failures == [], "to have fewer engines is no failure"
    assert [line for line in capsys.readouterr().err.splitlines() if "left out" in line] == [
        "llama.cpp is left out: llama_cpp and gguf not installed (pip install 'punchline[bench]')",
        "ctranslate2 is left out: ctranslate2 not installed (pip install 'punchline[bench]')",
    ]


def test_json_is_all_that_stdout_holds(tiny: Path, tmp_path: Path) -> None:
    argv = [
        "bench",
        "decode",
        "--model",
        str(tiny),
        "--batch",
        "1",
        "--rounds",
        "1",
        "--engines",
        "punchline",
        "--json",
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "bot", *argv],
        cwd=tmp_path,
        env=clean_environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    found = json.loads(line)
    assert list(found) == SIX
    assert (found["engine"], found["model"], found["batch"]) == ("punchline", "tiny", 1)
    assert list(tmp_path.glob("punchline-bench-*")) == [], "converted weights are cleaned up"


def test_the_command_itself_loads_no_torch() -> None:
    code = "import sys, model_service.bench.everything; print({'torch', 'numpy', 'llama_cpp'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "set()\n", ended.stderr


@pytest.mark.usefixtures("no_children")
def test_growth_has_a_cost_for_every_batch_and_context(tiny: Path, session: Session) -> None:
    report = growth.measure(str(tiny), (3,), (64, 128, 1024), session)
    assert [(found["batch"], found["context"]) for found in report.objects] == [(3, 64), (3, 128)]
    assert all(found["ms_per_token"] > 0 for found in report.objects)
    assert [len(row) for row in report.rows] == [5]


@pytest.mark.usefixtures("no_children")
def test_gaps_compares_the_slow_gaps_to_the_median_step(tiny: Path, session: Session) -> None:
    report = gaps.measure([str(tiny)], session)
    (found,) = report.objects
    assert session.failures == []
    assert found["prompt_tokens"] == 127
    assert found["p99_gap_over_step"] == pytest.approx(found["p99_gap_ms"] / found["step_ms"], rel=0.01)
    assert found["cancel_ms"] > 0


@pytest.mark.usefixtures("no_children")
def test_quality_finds_float32_equal_to_itself_and_int8_a_little_off_and_blind_to_strangers(
    tiny: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "FORMATS", ("float32", "float16", "int8"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "A horse walks into a bar."}\n{"prompt": "JOKE:", "completion": " The end."}\n')
    report = quality.measure(str(tiny), texts, None, session)
    plain, half, small = report.objects
    assert 1e-5 < half["logits_error"] < 0.01
    assert half["strangers_difference"] is None
    assert [row[-1] for row in report.rows][1] == "not measured", "FP16 is too slow on a CPU for batches of it"
    assert (plain["weights"], small["weights"]) == ("float32", "int8")
    assert (plain["top1_agreement"], plain["mean_kl"], plain["bits_per_character_change"]) == (1, 0, 0)
    assert plain["bits_per_character"] > 8, "a random model knows nothing of 257 tokens"
    assert plain["logits_error"] < 1e-5
    assert 1e-4 < small["logits_error"] < 0.05
    assert 0 < small["mean_kl"] < 0.01
    assert 0.9 < small["top1_agreement"] <= 1
    assert plain["strangers_difference"] < 1e-4
    assert small["strangers_difference"] == 0


def test_serve_sends_every_token_over_the_socket_and_says_what_that_costs(tiny: Path, session: Session) -> None:
    report = serve.measure(str(tiny), 3, 1, session)
    (found,) = report.objects
    assert session.failures == []
    assert (found["engine"], found["batch"]) == ("punchline", 3)
    assert found["share_of_offline"] == pytest.approx(found["tokens_per_s"] / found["offline_tokens_per_s"], rel=0.01)
    assert found["added_ms"] == pytest.approx(found["first_token_ms"] - found["engine_first_token_ms"], abs=0.01)
    assert found["first_token_ms"] > 0


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\n two\n", [Text("", "one"), Text("", " two")]),
        ("a.jsonl", '{"text": "x"}\n', [Text("", "x")]),
        ("a.jsonl", '{"prompt": "p", "completion": " c"}\n', [Text("p", " c")]),
    ],
)
def test_texts_are_read_from_lines_and_jsonl(tmp_path: Path, name: str, content: str, texts: list[Text]) -> None:
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name) == texts


def test_a_line_of_another_shape_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"joke": "y"}\n')
    with pytest.raises(ValueError, match='line 2 holds neither "text" nor "prompt"'):
        read_texts(tmp_path / "a.jsonl")


def test_without_a_file_the_held_out_jokes_or_the_general_texts_are_taken() -> None:
    assert len(read_texts(default_texts())) >= 40


def test_percentiles_and_steps_are_read_from_what_arrived() -> None:
    assert percentile([float(i) for i in range(100, 0, -1)], 0.99) == 99
    assert percentile([3.0, 1.0], 0.99) == 3
    times = [(1, 0.0), (2, 1.0), (4, 4.0), (5, 6.0), (6, 7.0)]
    assert step_s(times, at=5, window=3) == pytest.approx((6.0 - 1.0) / 3)


def test_the_machine_line_names_the_processor_and_what_matters_of_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    lines: Callable[..., str] = lambda *pairs: "".join(f"{name}\t: {value}\n" for name, value in pairs)  # noqa: E731
    cpuinfo.write_text(
        lines(("model name", "Zen"), ("cpu family", "26"), ("model\t", "2"), ("flags\t", "fpu avx512f avx512_vnni"))
    )
    assert cpu_name(cpuinfo) == "Zen (family 26 model 2, AVX-512 VNNI)"
    assert MACHINE.line == "a desk, 24 GiB, measured reads 50.0 GB/s, torch 2.13, 2026-01-01"


def test_a_busy_machine_is_warned_of() -> None:
    assert busy(load=0.9, num_cores=2) is None
    assert busy(3.91, 2) == "This machine is busy (load 3.9 on 2 cores): the figures will not be fair."


def test_a_call_that_is_stopped_leaves_no_weights_behind(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "model_service", "bench", "gaps", "--model", "distilgpt2"]
    with subprocess.Popen(argv, env=clean_environment(TMPDIR=str(tmp_path)), stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 60
        while not list(tmp_path.glob("punchline-bench-*/engines.log")):
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.glob("punchline-bench-*")) == []

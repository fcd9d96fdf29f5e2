"""int8 weights: close to float32, and not a bit of a row depends on its batch mates. Kernels and pure torch alike."""

import asyncio
import random
import shutil
import subprocess
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import GPT2LMHeadModel

from model_service.engine import fastest
from model_service.engine.engine import Engine
from model_service.engine.fastest import CANDIDATES, cpu_forward
from model_service.engine.forward import Forward, TorchForward
from model_service.engine.loading import load
from model_service.engine.native_forward import NativeForward
from model_service.engine.scheduler import Chunk, Copy, Move
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.gpt2 import GPT2
from model_service.models.loading import read_checkpoint
from model_service.native import library as native
from model_service.native.library import why_not
from tests.engine.test_engine import PROMPTS, ask
from tests.support.tiny_models import save_tiny_generator

WIDE = {"n_embd": 192, "n_head": 3, "n_positions": 256}  # whole and broken groups of 64, heads of 64
ODD = {"n_embd": 72, "n_head": 3, "n_inner": 100}  # heads of 24, nothing a multiple of anything

needs_kernels = pytest.mark.skipif(bool(why_not()), reason=why_not() or "they run")
Make = Callable[[GPT2, int], Forward]


def pure(model: GPT2, num_slots: int) -> Forward:
    return TorchForward(model.quantised(), num_slots)


FORWARDS = [pytest.param(NativeForward, marks=needs_kernels, id="kernels"), pytest.param(pure, id="torch")]


@pytest.fixture(scope="module", params=[WIDE, ODD], ids=["wide", "odd"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    folder = save_tiny_generator(tmp_path_factory.mktemp("model"), **request.param)
    return read_checkpoint(str(folder), weights="float32").model


def sequence(slot: int, length: int, seed: int = 0) -> Sequence:
    made = Sequence(slot, random.Random(1000 * seed + slot).choices(range(257), k=length), SamplingParams(), seed=0)
    made.slot = slot
    return made


def whole(s: Sequence) -> Chunk:
    return Chunk(s, 0, len(s.token_ids))


@torch.inference_mode()
def last_logits(forward: Forward, chunks: Seq[Chunk]) -> Tensor:
    """Run the chunks; return (B, V), the logits of each one's last token."""
    hidden = forward.hidden(chunks)
    ends = torch.tensor([c.end - c.start for c in chunks]).cumsum(0) - 1
    return forward.logits(hidden[ends]).clone()  # the kernels write the next ones over them


@pytest.mark.parametrize("make", FORWARDS)
def test_int8_stays_close_to_float32(make: Make, model: GPT2) -> None:
    chunks = [whole(sequence(slot, length)) for slot, length in enumerate([1, 7, 16, 33, 90])]
    exact, ours = last_logits(TorchForward(model, 8), chunks), last_logits(make(model, 8), chunks)
    assert (ours - exact).norm() < 0.1 * exact.norm()  # weights of this size are a hard case
    assert not torch.equal(ours, exact)


@pytest.mark.parametrize("make", FORWARDS)
def test_a_prompt_has_the_same_logits_alone_and_among_two_sets_of_31_strangers(make: Make, model: GPT2) -> None:
    def decode(strangers: int | None) -> Tensor:
        """Read the prompt among strangers, then decode two given tokens: (3, V)."""
        forward, own = make(model, 32), sequence(0, 19)
        others = [] if strangers is None else [sequence(slot, 1 + slot, seed=strangers) for slot in range(1, 32)]
        rows = [last_logits(forward, [*(whole(s) for s in others if len(s.token_ids) == 1), whole(own)])[-1]]
        for token_id in (5, 200):
            for s in (own, *others):
                s.token_ids.append(token_id + s.slot)
            chunks = [Chunk(s, len(s.token_ids) - 1, len(s.token_ids)) for s in (own, *others)]
            rows.append(last_logits(forward, chunks)[0])
        return torch.stack(rows)

    among_some, among_others, alone = decode(1), decode(2), decode(None)
    assert torch.equal(among_some, among_others)
    if make is NativeForward:  # torch may choose another kernel for attention in a larger batch
        assert torch.equal(among_some, alone)
    assert (among_some - alone).abs().max() < 1e-3


@needs_kernels
def test_a_prompt_read_in_chunks_has_the_same_bits_as_read_whole(model: GPT2) -> None:
    own = sequence(0, 100)
    at_once, in_chunks = NativeForward(model, 1), NativeForward(model, 1)
    expected = last_logits(at_once, [whole(own)])
    for start, end in [(0, 1), (1, 18), (18, 50), (50, 99)]:
        last_logits(in_chunks, [Chunk(own, start, end)])
    assert torch.equal(last_logits(in_chunks, [Chunk(own, 99, 100)]), expected)


@needs_kernels
def test_moved_and_copied_slots_go_on_with_the_same_bits(model: GPT2) -> None:
    own, forward = sequence(0, 40), NativeForward(model, 4)
    expected = last_logits(NativeForward(model, 4), [whole(own)])
    last_logits(forward, [Chunk(own, 0, 39)])
    forward.move(Move(0, 3, 39))
    forward.copy(Copy(3, 1, 20))
    own.slot = 3
    moved = last_logits(forward, [Chunk(own, 39, 40)])
    own.slot = 1
    copied = last_logits(forward, [Chunk(own, 20, 40)])
    assert torch.equal(moved, expected)
    assert torch.equal(copied, expected)


@needs_kernels
def test_a_number_that_is_not_finite_reaches_the_logits_and_no_other_row(model: GPT2) -> None:
    tensor = model.wte[7].clone()
    model.wte[7] = float("nan")
    forward = NativeForward(model, 2)
    model.wte[7] = tensor
    good, broken = sequence(0, 5), sequence(1, 5)
    good.token_ids, broken.token_ids = [1, 2, 3], [1, 7, 3]
    logits = last_logits(forward, [whole(good), whole(broken)])
    assert logits[0].isfinite().all()
    assert not logits[1].isfinite().any()


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu", "silu"])
@needs_kernels
def test_every_activation_is_computed(activation: str, tmp_path: Path) -> None:
    folder = save_tiny_generator(tmp_path, activation_function=activation, scale_attn_by_inverse_layer_idx=True)
    model = read_checkpoint(str(folder), weights="float32").model
    chunks = [whole(sequence(0, 60))]
    exact, ours = last_logits(TorchForward(model, 1), chunks), last_logits(NativeForward(model, 1), chunks)
    assert (ours - exact).norm() < 0.05 * exact.norm()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for a name that will go
@pytest.mark.parametrize("make", FORWARDS)
def test_adapters_add_what_merged_weights_would(make: Make, tmp_path: Path) -> None:
    base = GPT2LMHeadModel.from_pretrained(save_tiny_generator(tmp_path / "base", **WIDE))
    targets = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
    tuned = get_peft_model(base, LoraConfig(r=5, lora_alpha=20, target_modules=targets, fan_in_fan_out=True))
    torch.manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    tuned.save_pretrained(tmp_path / "adapter")
    forward = make(read_checkpoint(str(tmp_path / "base"), weights="float32").model, 3)
    adapter = forward.read_adapter("a", tmp_path / "adapter")
    plain, adapted = sequence(0, 30), sequence(1, 30)
    adapted.token_ids, adapted.adapter = plain.token_ids, adapter
    ids = torch.tensor([plain.token_ids])
    with torch.no_grad():
        with tuned.disable_adapter():
            expected_plain = tuned(ids).logits[0, -1]
        expected = tuned(ids).logits[0, -1]
    ours_plain, ours = last_logits(forward, [whole(plain), whole(adapted)])
    assert (expected - expected_plain).norm() > 0.2 * expected_plain.norm()
    assert (ours_plain - expected_plain).norm() < 0.06 * expected_plain.norm()
    assert (ours - expected).norm() < 0.06 * expected.norm()


def test_pure_torch_holds_whole_numbers_and_a_scale_a_channel(model: GPT2) -> None:
    exact, quantised = model.blocks[0].up, model.quantised().blocks[0].up
    x = torch.randn(4, model.shape.n_embd, generator=torch.Generator().manual_seed(0))
    assert quantised.values.dtype == torch.int8  # type: ignore[attr-defined]
    assert F.cosine_similarity(exact(x).flatten(), quantised(x).flatten(), dim=0) > 0.999
    assert model.quantised().size_bytes < 0.7 * model.size_bytes


@pytest.mark.parametrize("best", CANDIDATES)
def test_auto_is_the_format_whose_steps_are_shortest(best: str, model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def make(one_layer: GPT2, weights: str, num_slots: int) -> str:
        cpu_forward(one_layer, weights, num_slots).hidden([whole(sequence(0, 3))])  # each does run
        return weights

    def step_s(weights: str, rows: int) -> float:
        measured.append(weights)
        return 0.001 * rows if weights == best else 0.002 * rows

    monkeypatch.setattr(fastest, "cpu_forward", make)
    monkeypatch.setattr(fastest, "_step_s", step_s)
    fastest._fastest.cache_clear()
    assert fastest.fastest_weights(model.shape) == best
    assert set(measured) == set(CANDIDATES)
    fastest._fastest.cache_clear()


@needs_kernels
async def test_a_seed_repeats_whatever_shares_the_batch(tmp_path: Path) -> None:
    folder = save_tiny_generator(tmp_path, **WIDE)
    engine = load(str(folder), "generate", model_id="tiny", weights="int8", max_num_seqs=6)
    assert isinstance(engine, Engine)
    assert engine.weights == "int8"
    drawn = SamplingParams(max_tokens=25, temperature=1.5, top_p=0.95, seed=11)
    alone = [(await ask(engine, text, drawn)).token_ids for text in PROMPTS]
    together = await asyncio.gather(*(ask(engine, text, drawn) for text in PROMPTS))
    assert [answer.token_ids for answer in together] == alone
    await engine.close()


def test_kernels_from_other_sources_are_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.c").write_text("int punchline_supported() { return 1; }")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-o", tmp_path / "_kernels.so", tmp_path / "old.c"], check=True, timeout=60)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(native.Unavailable, match="make install builds them again"):
        native.library.__wrapped__()


def test_without_kernels_the_reason_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(native.Unavailable, match="install a C\\+\\+ compiler"):
        native.library.__wrapped__()

"""Every architecture and every switch of its config: the tokens of transformers in float32, or refused by name."""

import asyncio
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, GPTJForSequenceClassification, PreTrainedModel

from model_service.engine import fastest
from model_service.engine.attention import StepAttention
from model_service.engine.classifier import Classifier
from model_service.engine.engine import Engine
from model_service.engine.engine_config import Stage
from model_service.engine.fastest import cpu_forward
from model_service.engine.forward import Forward, TorchForward
from model_service.engine.kv_cache import KVCache
from model_service.engine.loading import load
from model_service.engine.native_forward import NativeForward
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.decoder import Decoder, decoder
from model_service.models.shape import ACTIVATION_NAMES, Shape, shape_of
from model_service.native.library import why_not
from tests.engine.test_engine import greedy, read
from tests.engine.test_graphs import run
from tests.support.tiny_models import byte_tokenizer, decoder_of, tensors_of, tiny_config, tiny_gptj, tiny_gptj_config

NUM_TOKENS = 8
PROMPT_LENGTHS = (1, 5, 17, 40, 64)  # read in chunks of at most 24 tokens
SIZES = {  # layers and heads as they are, an eighth of the width
    "distilgpt2": (6, 12, 96),
    "gpt2": (12, 12, 96),
    "gpt2-medium": (24, 16, 128),
    "gpt2-large": (36, 20, 160),
    "gpt2-xl": (48, 25, 200),
}
SWITCHES = [
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    {"reorder_and_upcast_attn": True},
    {"n_inner": 50},
    {"tie_word_embeddings": False},
    {"layer_norm_epsilon": 0.5},
    *({"activation_function": name} for name in ACTIVATION_NAMES),
]


def tiny_gpt2(seed: int = 0, **changes: object) -> GPT2LMHeadModel:
    """A random GPT-2 whose biases are not zero."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(tiny_config(**{"initializer_range": 0.2, "n_layer": 3, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def prompts() -> list[list[int]]:
    numbers = torch.Generator().manual_seed(5)
    return [torch.randint(0, 256, (length,), generator=numbers).tolist() for length in PROMPT_LENGTHS]


def answers(forward: Forward) -> list[list[int]]:
    """Run all prompts together, in four slots, in chunks."""
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0)
    running = [Sequence(i, list(prompt), params, seed=i) for i, prompt in enumerate(prompts())]
    run(ModelRunner(forward), running, every=1, num_slots=4)
    return [s.token_ids[s.prompt_len :] for s in running]


@torch.inference_mode()
def likeliest(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> list[int]:
    """What transformers would say in place of each token of an answer, after the prompt and those before it.

    Its greedy answer is the one that this returns unchanged. Each prompt is alone, attention its most careful.
    """
    model.set_attn_implementation("eager")
    found: Tensor = model(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :]
    return found.argmax(dim=-1).tolist()


def assert_same_tokens(model: PreTrainedModel) -> None:
    ours = answers(TorchForward(decoder_of(model), 4))
    assert ours == [likeliest(model, prompt, answer) for prompt, answer in zip(prompts(), ours, strict=True)]
    assert len({tuple(tokens) for tokens in ours}) > 1, "prompts must matter"


@pytest.mark.parametrize("size", SIZES)
def test_every_size_of_gpt2_gives_the_tokens_of_transformers(size: str) -> None:
    layers, heads, width = SIZES[size]
    assert_same_tokens(tiny_gpt2(n_layer=layers, n_head=heads, n_embd=width, initializer_range=0.1))


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: " ".join(f"{k}={v}" for k, v in switch.items()))
def test_every_switch_of_gpt2_is_honoured(switch: dict[str, object]) -> None:
    assert_same_tokens(tiny_gpt2(**switch))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": 28, "n_head": 16, "n_embd": 128, "rotary_dim": 2, "initializer_range": 0.08},  # 6B's proportions
        {"rotary_dim": 2},
        {"rotary_dim": 8},  # whole heads
        {"n_head": 1, "rotary_dim": 20},
        {"n_inner": 50},
        {"activation_function": "gelu"},
        {"layer_norm_epsilon": 0.5},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_gptj_gives_the_tokens_of_transformers(changes: dict[str, object]) -> None:
    assert_same_tokens(tiny_gptj(**{"n_layer": 3, **changes}))


def test_switches_change_what_a_model_says() -> None:
    """Else the tests above would pass without them. All models have the same weights."""
    plain = logits(decoder_of(tiny_gpt2()))
    for switch in (s for s in SWITCHES if s.keys() <= {"scale_attn_weights", "scale_attn_by_inverse_layer_idx"}):
        assert not torch.allclose(logits(decoder_of(tiny_gpt2(**switch))), plain, atol=0.1), switch


def test_a_rotary_dim_of_null_turns_the_whole_of_a_single_head() -> None:
    model = tiny_gptj(n_head=1, rotary_dim=32)
    shape = shape_of(model.config.to_dict() | {"rotary_dim": None})
    assert torch.equal(logits(decoder(shape, tensors_of(model))), logits(decoder_of(model)))


@torch.inference_mode()
def logits(model: Decoder | Forward) -> Tensor:
    """Of a prompt read at once and of three tokens that follow it one by one: (4, V)."""
    forward = TorchForward(model, 1) if hasattr(model, "parts") else model
    sequence = Sequence(0, prompts()[3], SamplingParams(), seed=0)
    sequence.slot = 0
    length = len(sequence.token_ids)
    spans = [(0, length - 3), *((i, i + 1) for i in range(length - 3, length))]
    return torch.cat([forward.logits(forward.hidden([Chunk(sequence, *span)])[-1:]).clone() for span in spans])


SHAPES = {"GPT-2": tiny_config(), "upcast": tiny_config(reorder_and_upcast_attn=True), "GPT-J": tiny_gptj_config()}


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 8.0), (torch.float16, 300.0)], ids=str)
def test_scores_are_float32_in_16_bit_models_that_ask_for_it(dtype: torch.dtype, size: float) -> None:
    """Queries and keys of such a size make scores that BF16 does not tell apart, and that FP16 does not hold."""
    numbers = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(40, 4, 8, generator=numbers).mul(scale).to(dtype) for scale in (size, size, 1.0))
    sequence = Sequence(0, [0] * 40, SamplingParams(), seed=0)
    sequence.slot = 0
    errors = {}
    for name, config in SHAPES.items():
        shape = shape_of(config.to_dict())

        def attended(dtype: torch.dtype, shape: Shape = shape) -> Tensor:
            """Of a prompt and of a token that follows it."""
            model = decoder_of(tiny_gpt2(n_layer=1), dtype)
            cache = KVCache(model, 1, 128)
            parts = [(Chunk(sequence, 0, 39), slice(39)), (Chunk(sequence, 39, 40), slice(39, 40))]
            rows = [
                StepAttention([chunk], cache, shape, model.device)(0, *(t[some].to(dtype) for t in (q, k, v)))
                for chunk, some in parts
            ]
            return torch.cat(rows).float()

        exact = attended(torch.float32)
        errors[name] = float((attended(dtype) - exact)[39].norm() / exact[39].norm())
        assert (attended(dtype) - exact)[:39].norm() < 0.01 * exact[:39].norm()
    assert errors["upcast"] < 0.01
    assert errors["GPT-J"] < 0.01
    assert not errors["GPT-2"] < 3 * errors["upcast"], "else the switch would do nothing"


@torch.inference_mode()
def through_parts(parts: Seq[Decoder]) -> list[Tensor]:
    """Read two prompts in chunks beside each other, then a token each; return the logits of each pass."""
    caches = [KVCache(part, 2, part.shape.n_positions) for part in parts]
    sequences = [Sequence(i, prompts()[3], SamplingParams(), seed=0) for i in range(2)]
    for slot, sequence in enumerate(sequences):
        sequence.slot = slot
    found = []
    for start, end in ((0, 20), (20, 33), (33, 34), (34, 35)):
        chunks = [Chunk(s, start, end) for s in sequences]
        x = torch.tensor([t for c in chunks for t in c.sequence.token_ids[c.start : c.end]])
        positions = torch.tensor([p for c in chunks for p in range(c.start, c.end)])
        for part, cache in zip(parts, caches, strict=True):
            x = part.hidden(x, positions, StepAttention(chunks, cache, part.shape, part.device))
        found.append(parts[-1].logits(x))
    return found


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_gptj])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ends", [(1, 5), (3, 4, 5), (1, 2, 3, 4, 5)])
def test_parts_one_after_the_other_are_the_whole_bit_for_bit(make: object, tied: bool, ends: tuple[int, ...]) -> None:
    model = make(n_layer=5, tie_word_embeddings=tied)  # type: ignore[operator]
    whole = decoder_of(model)
    layers = [range(start, end) for start, end in zip((0, *ends), ends, strict=False)]
    parts = [decoder_of(model, layers=some) for some in layers]
    assert [len(part.blocks) for part in parts] == [len(some) for some in layers]
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    for ours, expected in zip(through_parts(parts), through_parts([whole]), strict=True):
        assert torch.equal(ours, expected)
    again = parts[0].wte.nbytes if tied else 0  # type: ignore[attr-defined]
    assert sum(part.size_bytes for part in parts) == whole.size_bytes + again, "a tied head needs the embedding again"


def test_a_head_that_is_the_embedding_again_takes_no_room() -> None:
    """Old checkpoints hold it twice."""
    model = tiny_gpt2()
    tensors = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    assert torch.equal(tensors["lm_head.weight"], tensors["wte.weight"])
    shape = shape_of(model.config.to_dict())
    assert decoder(shape, tensors).size_bytes == sum(p.nbytes for p in model.parameters())
    tensors["lm_head.weight"] += 1  # then it is the model's own, whatever the config says
    assert decoder(shape, tensors).size_bytes > sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"activation_function": "prelu"}, "activation_function 'prelu' is not one of gelu_new, "),
        ({"add_cross_attention": True}, "add_cross_attention is set; only decoders"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is set; only decoders"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is set; only models with all"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set; only models with float"),
        ({"n_head": 5}, "n_embd 32 is not a multiple of n_head 5"),
        ({"n_layer": 0}, "n_layer is 0, not a whole number above 0"),
        ({"n_embd": "32"}, "n_embd is '32', not a whole number"),
        ({"model_type": "llama"}, "its model_type is 'llama'; gpt2, gptj run here"),
    ],
)
def test_what_does_not_run_is_refused_by_name(changes: dict[str, object], sentence: str) -> None:
    for config in (tiny_config(), tiny_gptj_config()):
        with pytest.raises(ValueError, match=sentence):
            shape_of(config.to_dict() | changes)


@pytest.mark.parametrize(
    ("rotary_dim", "sentence"),
    [
        (None, "rotary_dim is null with n_head 4"),
        (0, "rotary_dim 0 is not an even number from 2 to the size of a head, 8"),
        (3, "rotary_dim 3 is not"),
        (10, "rotary_dim 10 is not"),
        (-2, "rotary_dim -2 is not"),
    ],
)
def test_a_rotary_dim_without_meaning_is_refused(rotary_dim: int | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        shape_of(tiny_gptj_config().to_dict() | {"rotary_dim": rotary_dim})


@pytest.mark.parametrize("lacking", ["lm_head.weight", "lm_head.bias", "h.1.attn.k_proj.weight"])
def test_a_tensor_that_is_missing_is_named(lacking: str) -> None:
    model = tiny_gptj()
    tensors = tensors_of(model)
    del tensors[lacking]
    with pytest.raises(KeyError, match=lacking):
        decoder(shape_of(model.config.to_dict()), tensors)


@pytest.mark.parametrize("make", [tiny_gptj, tiny_gpt2])
@pytest.mark.parametrize("activation", ["gelu_new", "tanh"])
def test_int8_runs_every_architecture_here(make: object, activation: str) -> None:
    """By our kernels what they know, in torch what they do not."""
    model = make(n_embd=64, activation_function=activation)  # type: ignore[operator]
    ours = cpu_forward(decoder_of(model), "int8", 4)
    native = make is tiny_gpt2 and activation == "gelu_new" and not why_not()
    assert isinstance(ours, NativeForward) == native
    exact = logits(decoder_of(model))
    assert (logits(ours) - exact).norm() < 0.1 * exact.norm()


def test_auto_measures_a_layer_of_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def make(model: Decoder, weights: str, num_slots: int) -> Forward:
        measured.append((weights, model.shape))
        return cpu_forward(model, weights, num_slots)

    monkeypatch.setattr(fastest, "cpu_forward", make)
    shape = shape_of(tiny_gptj_config(n_layer=9, n_inner=48).to_dict())
    assert fastest.fastest_weights(shape) in fastest.CANDIDATES
    assert fastest.fastest_weights(replace(shape, n_layer=3)) in fastest.CANDIDATES  # measured already
    assert [weights for weights, _ in measured] == list(fastest.CANDIDATES)
    assert {(s.model_type, s.n_embd, s.inner_size, s.n_layer) for _, s in measured} == {("gptj", 32, 48, 1)}


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_the_int8_kernels_honour_every_switch_they_take(switch: dict[str, object]) -> None:
    model = tiny_gpt2(n_embd=64, **switch)
    exact = logits(decoder_of(model))
    ours = logits(cpu_forward(decoder_of(model), "int8", 4))
    assert (ours - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("layers", [(range(4),), (range(1), range(1, 4))], ids=["whole", "in stages"])
async def test_gptj_answers_from_a_folder(layers: tuple[range, ...], tmp_path: Path) -> None:
    model = tiny_gptj(n_layer=4)
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    stages = tuple(Stage("cpu", some) for some in layers)
    engine = load(str(tmp_path), "generate", model_id="j", weights="float32", stages=stages, max_num_seqs=3)
    assert isinstance(engine, Engine)
    params = greedy(NUM_TOKENS, logit_bias=((256, -100.0),))  # never the end
    answers = await asyncio.gather(*(read(engine.submit(list(prompt), params)) for prompt in prompts()))
    await engine.close()
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert list(answer.token_ids) == likeliest(model, prompt, list(answer.token_ids))


async def test_gptj_classifies(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = {0: "dull", 1: "funny"}
    model = GPTJForSequenceClassification(tiny_gptj_config(initializer_range=0.2, id2label=names)).eval()
    model.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    classifier = load(str(tmp_path), "classify", model_id="j", weights="float32")
    assert isinstance(classifier, Classifier)
    text = "A horse walks into a bar."
    [probs] = await classifier.classify([text])
    with torch.no_grad():
        expected = model(torch.tensor([tokenizer.encode(text)])).logits[0].softmax(dim=-1)
    torch.testing.assert_close(torch.tensor(probs), expected, rtol=1e-4, atol=1e-5)
    assert classifier.labels == ["dull", "funny"]
    await classifier.close()

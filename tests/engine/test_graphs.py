"""The GPU's captured step, run here without capture: the same buffers, buckets and draws on a CPU, in float32."""

import math
from collections import Counter

import pytest
import torch

from model_service.engine import decode_step, device_sampler, sampler
from model_service.engine.forward import TorchForward
from model_service.engine.graph_runner import GraphRunner, batch_buckets, context_buckets, runs_captured
from model_service.engine.graphs import EagerGraphs, Work
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk, Copy, Scheduler
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.gpt2 import GPT2
from model_service.models.loading import read_checkpoint
from tests.support.tiny_models import save_tiny_generator

NUM_SLOTS = 6
GREEDY = SamplingParams(max_tokens=30, temperature=0)
KINDS = [
    GREEDY,
    SamplingParams(max_tokens=25),
    SamplingParams(max_tokens=12, temperature=0.7, top_k=5),
    SamplingParams(max_tokens=40, top_p=0.8),
    SamplingParams(max_tokens=9, temperature=1.5, min_p=0.05, top_k=40, top_p=0.9),
    SamplingParams(max_tokens=20, temperature=0, presence_penalty=1.5, frequency_penalty=0.5),
    SamplingParams(max_tokens=6, logprobs=2),
    SamplingParams(max_tokens=15, logit_bias=((65, 4.0),)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    return read_checkpoint(str(save_tiny_generator(tmp_path_factory.mktemp("tiny")))).model


def graph_runner(model: GPT2, graphs: EagerGraphs | None = None) -> GraphRunner:
    """Buckets so small that the tests pass through several."""
    return GraphRunner(TorchForward(model, NUM_SLOTS), graphs or EagerGraphs(), smallest_context=16)


def sequences(count: int = 24) -> list[Sequence]:
    """Prompts of 1 to 70 tokens, parameters of every kind."""
    numbers = torch.Generator().manual_seed(5)
    return [
        Sequence(
            i,
            torch.randint(0, 256, ((1, 3, 17, 70, 40)[i % 5],), generator=numbers).tolist(),
            KINDS[i % len(KINDS)],
            seed=i << 60 | i,
            user=str(i % 3),
        )
        for i in range(count)
    ]


def run(runner: ModelRunner, arriving: list[Sequence], *, every: int = 2, num_slots: int = NUM_SLOTS) -> list[int]:
    """Let a sequence arrive every few steps, as in the engine; return how many chunks each step had."""
    scheduler = Scheduler(num_slots, PrefillBudget(most=24))
    waiting = list(arriving)
    sizes: list[int] = []
    while waiting or not scheduler.idle:
        if waiting and len(sizes) % every == 0:
            scheduler.add(waiting.pop(0))
        plan = scheduler.schedule()
        for transfer in plan.transfers:
            runner.copy(transfer) if isinstance(transfer, Copy) else runner.move(transfer)
        results = runner.step(plan.chunks) if plan.chunks else []
        for chunk in plan.chunks:
            chunk.sequence.num_computed = chunk.end
        assert {r.sequence.id for r in results} == {c.sequence.id for c in plan.chunks}
        for result in results:
            if result.token_id is not None:
                result.sequence.token_ids.append(result.token_id)
            if result.sequence.num_generated == result.sequence.params.max_tokens:
                move = scheduler.finish(result.sequence)
                if move:
                    runner.move(move)
        sizes.append(len(plan.chunks))
    return sizes


def test_captured_steps_equal_the_plain_runner_through_joins_ends_moves_and_chunks(model: GPT2) -> None:
    ours, plain = sequences(), sequences()
    sizes = run(graph_runner(model), ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert set(sizes) >= set(range(1, NUM_SLOTS + 1)), "the test must fill and empty all slots"
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids == b.token_ids, a.params


def test_a_draw_that_needs_more_than_the_sorted_head_is_made_again(
    model: GPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_step, "CANDIDATES", 2)
    runner = graph_runner(model)
    redrawn: list[list[int]] = []
    draw_again = runner._step.draw_again
    monkeypatch.setattr(runner._step, "draw_again", lambda slots: (redrawn.append(slots), draw_again(slots))[1])
    ours, plain = sequences(), sequences()
    run(runner, ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert redrawn
    assert [s.token_ids for s in ours] == [s.token_ids for s in plain]


def test_a_text_does_not_depend_on_what_runs_beside_it(model: GPT2) -> None:
    together, alone = sequences(), sequences()
    run(graph_runner(model), together)
    for a, b in zip(together, alone, strict=True):
        run(graph_runner(model), [b])
        assert a.token_ids == b.token_ids, a.params


class Counted(EagerGraphs):
    """Counts what is captured and what is run."""

    def __init__(self) -> None:
        self.captured = 0
        self.runs = 0

    def capture(self, work: Work) -> Work:
        self.captured += 1
        repeat = super().capture(work)

        def counted() -> None:
            self.runs += 1
            repeat()

        return counted


def test_a_bucket_is_captured_once_and_serves_every_size_below_it(model: GPT2) -> None:
    graphs = Counted()
    runner = graph_runner(model, graphs)
    run(runner, sequences())
    first = graphs.captured
    again = sequences()
    run(runner, again)
    assert graphs.captured == first, "the same sizes again need no new graphs"
    plain = sequences()
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert [s.token_ids for s in again] == [s.token_ids for s in plain]
    assert graphs.runs > 4 * first


def test_rows_that_go_on_upload_nothing(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = graph_runner(model)
    staged: list[int] = []
    stage = runner._step.stage
    monkeypatch.setattr(runner._step, "stage", lambda chunks: (staged.append(len(chunks)), stage(chunks)))
    pair = [Sequence(i, [7, 8, 9], SamplingParams(max_tokens=10), seed=i) for i in range(2)]
    run(runner, pair, every=1)
    # alone, then both, then the one that is left; and again where a new context bucket is captured
    assert staged[:2] == [1, 2]
    assert len(staged) <= 4


def test_idle_rows_and_warm_up_never_change_what_a_slot_holds(model: GPT2) -> None:
    forward = TorchForward(model, NUM_SLOTS)
    runner = GraphRunner(forward, EagerGraphs(), smallest_context=16)
    numbers = torch.Generator().manual_seed(1)
    for cache in (*forward.cache.keys, *forward.cache.values):
        cache.copy_(torch.randn(cache.shape, generator=numbers))
    before = [t.clone() for t in (*forward.cache.keys, *forward.cache.values)]
    sequence = Sequence(0, list(range(40)), GREEDY, seed=0)
    sequence.slot = 4
    runner.step([Chunk(sequence, 20, 21)])  # rows 0 to 3 and 5 idle, some of them in use
    for old, new in zip(before, (*forward.cache.keys, *forward.cache.values), strict=True):
        changed = (old != new).any(dim=-1).any(dim=1).nonzero().tolist()
        last = model.shape.n_positions - 1
        assert [4, 20] in changed
        assert all(place == [4, 20] or place[1] == last for place in changed)


def test_a_full_context_is_used_to_its_last_token(model: GPT2) -> None:
    params = SamplingParams(max_tokens=model.shape.n_positions - 3, temperature=0)
    pairs = [[Sequence(i, [i, 2, 3], params, seed=i) for i in range(3)] for _ in range(2)]
    run(graph_runner(model), pairs[0])
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), pairs[1])
    assert [s.token_ids for s in pairs[0]] == [s.token_ids for s in pairs[1]]
    assert all(len(s.token_ids) == model.shape.n_positions for s in pairs[0])


def test_numbers_that_break_end_their_own_row_only(model: GPT2) -> None:
    forward = TorchForward(model, NUM_SLOTS)
    runner = GraphRunner(forward, EagerGraphs())
    pair = [Sequence(i, [5, 6, 7 + i], GREEDY, seed=0) for i in range(2)]
    for slot, sequence in enumerate(pair):
        sequence.slot = slot
        runner.step([Chunk(sequence, 0, 2)])
    forward.cache.values[0][1, :, 0] = math.nan
    good, bad = sorted(runner.step([Chunk(s, 2, 3) for s in pair]), key=lambda r: r.sequence.id)
    assert (bad.finite, bad.token_id) == (False, None)
    alone = Sequence(0, [5, 6, 7], GREEDY, seed=0)
    alone.slot = 0
    [expected] = ModelRunner(TorchForward(model, 1)).step([Chunk(alone, 0, 3)])
    assert (good.finite, good.token_id) == (True, expected.token_id)


def test_what_needs_the_host_runs_beside_the_graphs() -> None:
    assert runs_captured(Chunk(Sequence(0, [1, 2], GREEDY, seed=0), 1, 2))
    for params in (SamplingParams(logprobs=0), SamplingParams(repetition_penalty=1.2), KINDS[5], KINDS[7]):
        assert not runs_captured(Chunk(Sequence(0, [1, 2], params, seed=0), 1, 2))
    assert not runs_captured(Chunk(Sequence(0, [1, 2], GREEDY, seed=0), 0, 2))


def test_buckets_end_with_the_largest_size_there_is() -> None:
    assert batch_buckets(16) == [1, 2, 4, 8, 16]
    assert batch_buckets(20) == [1, 2, 4, 8, 16, 20]
    assert batch_buckets(1) == [1]
    assert context_buckets(1024) == [64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert context_buckets(48) == [48]


# --- draws ----------------------------------------------------------------------------------------------------------

VOCAB = 1000
DRAWS = 4000
CHI_SQUARE_LIMIT = 3.7  # standard deviations; fixed seeds, so a pass stays a pass
FILTERS = [
    SamplingParams(),
    SamplingParams(temperature=0.7),
    SamplingParams(top_k=20),
    SamplingParams(top_p=0.8),
    SamplingParams(temperature=2.5, top_p=0.95),  # keeps more than the sorted head
    SamplingParams(min_p=0.05),
    SamplingParams(temperature=1.5, top_k=50, top_p=0.7, min_p=0.01),
    SamplingParams(top_k=700),
]


def rows(params: list[SamplingParams], seeds: list[int], position: int = 1) -> device_sampler.Rows:
    return device_sampler.Rows(
        seed=torch.tensor([device_sampler.signed(s) for s in seeds]),
        position=torch.full((len(seeds),), position),
        temperature=torch.tensor([p.temperature for p in params], dtype=torch.float64),
        top_k=torch.tensor([p.top_k for p in params]),
        top_p=torch.tensor([p.top_p for p in params], dtype=torch.float64),
        min_p=torch.tensor([p.min_p for p in params], dtype=torch.float64),
    )


def device_draws(logits: torch.Tensor, p: SamplingParams, n: int = DRAWS) -> list[int]:
    """Draw as a graph does, and again where the sorted head was too short."""
    some = rows([p] * n, list(range(n)))
    candidates = device_sampler.CANDIDATES if device_sampler.truncates(p) else 0
    drawn = device_sampler.draw(logits.expand(n, -1), some, candidates=candidates)
    whole = device_sampler.draw(logits.expand(n, -1), some, candidates=logits.shape[-1])
    assert (whole >= 0).all()
    assert ((drawn == whole) | (drawn == device_sampler.INCOMPLETE)).all()
    return torch.where(drawn == device_sampler.INCOMPLETE, whole, drawn).tolist()


def reference_probs(logits: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """The distribution by definition: temperature, min_p, top_k, top_p on the whole sorted row."""
    probs, order = (logits[0].double() / p.temperature).softmax(-1).sort(descending=True)
    probs = torch.where(probs >= p.min_p * probs[0], probs, 0)
    if p.top_k:
        probs[p.top_k :] = 0
    probs /= probs.sum()
    probs[(probs.cumsum(0) - probs) >= p.top_p] = 0
    return torch.zeros(VOCAB, dtype=torch.float64).scatter(0, order, probs / probs.sum())


@pytest.mark.parametrize("params", FILTERS)
def test_device_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 3
    probs = reference_probs(logits, params)
    counts = Counter(device_draws(logits, params))
    assert all(probs[t] > 0 for t in counts), "a token was drawn that the filters drop"
    common = [t for t in range(VOCAB) if probs[t] * DRAWS >= 5]
    rest = 1 - sum(probs[t].item() for t in common)
    expected = [probs[t].item() * DRAWS for t in common] + [rest * DRAWS]
    observed = [counts[t] for t in common] + [DRAWS - sum(counts[t] for t in common)]
    chi = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True) if e > 1)
    degrees = sum(e > 1 for e in expected) - 1
    assert abs(chi - degrees) <= CHI_SQUARE_LIMIT * math.sqrt(2 * max(degrees, 1))


@pytest.mark.parametrize("params", FILTERS)
def test_one_seed_draws_one_token_on_the_device_and_on_the_host(params: SamplingParams) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3)) * 2
    host = sampler.sample(logits.expand(400, -1), [Sequence(i, [0], params, seed=i) for i in range(400)])
    same = sum(a == b for a, b in zip(host, device_draws(logits, params, 400), strict=True))
    assert same >= 399, "only a draw that falls on a border to the last digit may differ"


def test_the_device_counts_the_same_random_numbers_as_the_host() -> None:
    numbers = torch.Generator().manual_seed(2)
    seeds = [0, 1, 2**63, 2**64 - 1, *torch.randint(0, 2**63 - 1, (500,), generator=numbers).tolist()]
    for position in (0, 1, 1023):
        drawn = device_sampler.uniform(
            torch.tensor([device_sampler.signed(s) for s in seeds]), torch.full((len(seeds),), position)
        )
        assert drawn.tolist() == [sampler.uniform(seed, position) for seed in seeds]


def test_rows_of_all_kinds_draw_together_as_each_does_alone() -> None:
    logits = torch.randn(len(FILTERS), VOCAB, generator=torch.Generator().manual_seed(4)) * 2
    params = [SamplingParams(temperature=0), *FILTERS[1:]]
    together = device_sampler.draw(logits, rows(params, [9] * len(params)), candidates=VOCAB)
    for i, p in enumerate(params):
        alone = device_sampler.draw(logits[i : i + 1], rows([p], [9]), candidates=VOCAB)
        assert together[i] == alone[0], p
    assert together[0] == logits[0].argmax()


@pytest.fixture
def broken() -> torch.Tensor:
    logits = torch.zeros(3, VOCAB)
    logits[1, 5], logits[2, 6] = math.nan, math.inf
    return logits


def test_rows_that_are_not_finite_are_named_and_no_token(broken: torch.Tensor) -> None:
    params = [SamplingParams(top_p=0.9)] * 3
    drawn = device_sampler.draw(broken, rows(params, [1, 2, 3]), candidates=VOCAB).tolist()
    assert drawn[0] >= 0
    assert drawn[1:] == [device_sampler.BROKEN] * 2
    assert device_sampler.greedy(broken).tolist()[1:] == [device_sampler.BROKEN] * 2

"""The GPU's captured step, run here without capture: the same buffers, buckets and draws on a CPU, in float32."""

import math

import pytest
import torch

from model_service.engine import decode_step
from model_service.engine.forward import TorchForward
from model_service.engine.graph_runner import GraphRunner, batch_buckets, context_buckets, split
from model_service.engine.graphs import EagerGraphs, Work
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.runner import ModelRunner
from model_service.engine.scheduler import Chunk, Copy, Scheduler
from model_service.engine.sequence import SamplingParams, Sequence
from model_service.models.decoder import Decoder
from model_service.models.loading import read_checkpoint
from tests.support.tiny_models import save_tiny_generator, save_tiny_gptj

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


@pytest.fixture(scope="module", params=[save_tiny_generator, save_tiny_gptj], ids=["gpt2", "gptj"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return read_checkpoint(str(request.param(tmp_path_factory.mktemp("tiny")))).model


def graph_runner(model: Decoder, graphs: EagerGraphs | None = None) -> GraphRunner:
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


def test_captured_steps_equal_the_plain_runner_through_joins_ends_moves_and_chunks(model: Decoder) -> None:
    ours, plain = sequences(), sequences()
    sizes = run(graph_runner(model), ours)
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), plain)
    assert set(sizes) >= set(range(1, NUM_SLOTS + 1)), "the test must fill and empty all slots"
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids == b.token_ids, a.params


def test_a_draw_that_needs_more_than_the_sorted_head_is_made_again(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
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


def test_a_text_does_not_depend_on_what_runs_beside_it(model: Decoder) -> None:
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


def test_a_bucket_is_captured_once_and_serves_every_size_below_it(model: Decoder) -> None:
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


def test_rows_that_go_on_upload_nothing(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = graph_runner(model)
    staged: list[int] = []
    stage = runner._step.stage
    monkeypatch.setattr(
        runner._step, "stage", lambda chunks, places: (staged.append(len(chunks)), stage(chunks, places))
    )
    pair = [Sequence(i, [7, 8, 9], SamplingParams(max_tokens=10), seed=i) for i in range(2)]
    run(runner, pair, every=1)
    # alone, then both, then the one that is left; and again where a new context bucket is captured
    assert staged[:2] == [1, 2]
    assert len(staged) <= 4


def test_a_prompt_read_token_by_token_is_read_as_it_stands(model: Decoder) -> None:
    """Its tokens are what was written, not what the model would have gone on with."""
    slow, quick = (Sequence(0, list(range(60, 90)), GREEDY, seed=0) for _ in range(2))
    slow.slot = 0
    runner = graph_runner(model)
    for position in range(30):
        [result] = runner.step([Chunk(slow, position, position + 1)])
    quick.slot = 0
    [expected] = ModelRunner(TorchForward(model, 1)).step([Chunk(quick, 0, 30)])
    assert result.token_id == expected.token_id
    torch.testing.assert_close(runner._step._logits[0], logits_after(model, quick))


def logits_after(model: Decoder, sequence: Sequence) -> torch.Tensor:
    forward = TorchForward(model, 1)
    return forward.logits(forward.hidden([Chunk(sequence, 0, len(sequence.token_ids))])[-1:])[0]


def test_idle_rows_and_warm_up_never_change_what_a_slot_holds(model: Decoder) -> None:
    forward = TorchForward(model, NUM_SLOTS)
    runner = GraphRunner(forward, EagerGraphs(), smallest_context=16)
    numbers = torch.Generator().manual_seed(1)
    for cache in (*forward.cache.keys.values(), *forward.cache.values.values()):
        cache.copy_(torch.randn(cache.shape, generator=numbers))
    before = [t.clone() for t in (*forward.cache.keys.values(), *forward.cache.values.values())]
    sequence = Sequence(0, list(range(40)), GREEDY, seed=0)
    sequence.slot = 4
    runner.step([Chunk(sequence, 20, 21)])  # rows 0 to 3 and 5 idle, some of them in use
    for old, new in zip(before, (*forward.cache.keys.values(), *forward.cache.values.values()), strict=True):
        changed = (old != new).any(dim=-1).any(dim=1).nonzero().tolist()
        last = model.shape.n_positions - 1
        assert [4, 20] in changed
        assert all(place == [4, 20] or place[1] == last for place in changed)


def test_a_full_context_is_used_to_its_last_token(model: Decoder) -> None:
    params = SamplingParams(max_tokens=model.shape.n_positions - 3, temperature=0)
    pairs = [[Sequence(i, [i, 2, 3], params, seed=i) for i in range(3)] for _ in range(2)]
    run(graph_runner(model), pairs[0])
    run(ModelRunner(TorchForward(model, NUM_SLOTS)), pairs[1])
    assert [s.token_ids for s in pairs[0]] == [s.token_ids for s in pairs[1]]
    assert all(len(s.token_ids) == model.shape.n_positions for s in pairs[0])


def test_numbers_that_break_end_their_own_row_only(model: Decoder) -> None:
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
    def chunk(params: SamplingParams, start: int = 1) -> Chunk:
        return Chunk(Sequence(0, [1, 2], params, seed=0), start, 2)

    plain = [chunk(GREEDY), chunk(SamplingParams(top_p=0.5, top_k=3, min_p=0.1))]
    special = [
        chunk(p) for p in (SamplingParams(logprobs=0), SamplingParams(repetition_penalty=1.2), KINDS[5], KINDS[7])
    ]
    prompt = chunk(GREEDY, start=0)
    assert split([plain[0], *special, prompt, plain[1]]) == (plain, [*special, prompt])


def test_buckets_end_with_the_largest_size_there_is() -> None:
    assert batch_buckets(16) == [1, 2, 4, 8, 16]
    assert batch_buckets(20) == [1, 2, 4, 8, 16, 20]
    assert batch_buckets(1) == [1]
    assert context_buckets(1024) == [64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert context_buckets(48) == [48]

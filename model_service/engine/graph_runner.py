"""Runs sequences on a GPU: those that only need their next token in captured steps, the rest as ModelRunner does.

    chunks ─┬─ one token, sampled by temperature and truncation ──> forward graph ─> draw graph ─┐
            │                                                                                    ├─> results
            └─ prompts, penalties, log-probabilities ──> ModelRunner ────────────────────────────┘

Both work on one cache, the graphs first (see decode_step.py on idle rows). Which way a token goes depends on its own
sequence alone, so that no sequence's text depends on what happens to run beside it. A forward graph belongs to a batch
bucket and a context bucket, a draw graph to a batch bucket and a kind of sampler. The host waits once, at the end.
Adapters run in graphs of their own, captured when they are first needed (see adapter_places.py); one that has no place
there runs as ModelRunner does.
"""

import bisect
import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq

import torch

from model_service.engine.decode_step import DRAW_MODES, DecodeStep, draw_mode
from model_service.engine.device_sampler import BROKEN, INCOMPLETE
from model_service.engine.forward import TorchForward
from model_service.engine.graphs import Graphs, Work
from model_service.engine.runner import ModelRunner, Result
from model_service.engine.scheduler import Chunk
from model_service.models.layers import LayerParts
from model_service.models.lora import Adapter

log = logging.getLogger(__name__)

BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SMALLEST_CONTEXT = 64
TIMED_RUNS = 20


def batch_buckets(num_slots: int) -> list[int]:
    """Return the batch sizes that are captured; the last one is `num_slots`."""
    return [b for b in BATCHES if b < num_slots] + [num_slots]


def context_buckets(context_len: int, smallest: int = SMALLEST_CONTEXT) -> list[int]:
    """Return the lengths that are captured, by halves and thirds; the last one is `context_len`.

    A step reads the cache up to its bucket, so the most a row reads in vain is half of what it needs.
    """
    lengths, size = [], smallest
    while size < context_len:
        lengths += [size, size * 3 // 2]
        size *= 2
    return [n for n in lengths if n < context_len] + [context_len]


class GraphRunner(ModelRunner):
    """A ModelRunner whose single tokens run in graphs. The forward's cache must be on the graphs' device."""

    def __init__(self, forward: TorchForward, graphs: Graphs, *, smallest_context: int = SMALLEST_CONTEXT) -> None:
        super().__init__(forward)
        self._graphs = graphs
        self._shape = forward.model.shape
        self._num_slots = forward.cache.keys[0].shape[0]
        self._batches = batch_buckets(self._num_slots)
        self._contexts = context_buckets(self._shape.n_positions, smallest_context)
        self._step = DecodeStep(forward.model, forward.cache, self._num_slots)
        self._device = forward.model.device
        self._plain = forward.model.parts
        self._parts = dict.fromkeys(self._batches, self._plain)
        self._forwards: dict[tuple[int, int, tuple[str, ...]], Work] = {}
        self._draws: dict[tuple[int, str], Work] = {}
        # what the buffers are ready for: of each row its sequence's id, slot, position, and the token to run there
        self._expected: list[tuple[int, int, int, int]] | None = None

    @torch.inference_mode()
    def step(self, chunks: Seq[Chunk]) -> list[Result]:
        """Compute the chunks' tokens and draw what is due."""
        captured, others = split(chunks)
        places = self._step.adapters.place(a for c in captured if (a := c.sequence.adapter))
        others += [c for c in captured if c.sequence.adapter and c.sequence.adapter not in places]
        captured = [c for c in captured if not c.sequence.adapter or c.sequence.adapter in places]
        collect = self._launch(captured, places) if captured else None
        results = super().step(others) if others else []
        return results + collect() if collect else results

    @torch.inference_mode()
    def use_parts(self, batch: int, parts: LayerParts) -> float:
        """Run steps of a batch bucket on these parts of layers; returns what one of its shortest takes, in seconds."""
        if self._parts[batch] is not parts:
            self._parts[batch] = parts
            self._forwards = {key: work for key, work in self._forwards.items() if key[0] != batch}
        forward = self._forward_graph(batch, self._contexts[0])
        self._record()()
        began = time.perf_counter()
        for _ in range(TIMED_RUNS):
            forward()
        self._record()()
        return (time.perf_counter() - began) / TIMED_RUNS

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture every step there can be, so that none has to wait for it later. Before the first `step`."""
        began = time.perf_counter()
        for batch in reversed(self._batches):  # the largest first: the others fit into what it allocates
            for context in reversed(self._contexts):
                self._forward_graph(batch, context)
            for mode in DRAW_MODES:
                self._draw_graph(batch, mode)
        count = len(self._forwards) + len(self._draws)
        log.info("%d graphs captured in %.1f s", count, time.perf_counter() - began)

    def _launch(self, chunks: Seq[Chunk], places: Mapping[Adapter, int]) -> Callable[[], list[Result]]:
        """Start a captured step; returns what waits for its results."""
        slots = [c.sequence.slot for c in chunks]
        batch = _bucket(self._batches, max(slots) + 1)
        context = _bucket(self._contexts, max(c.end for c in chunks))
        forward = self._forward_graph(batch, context, self._step.adapters.linears if places else ())
        draw = self._draw_graph(batch, draw_mode(chunks))
        if self._expected != [(c.sequence.id, c.sequence.slot, c.start, c.sequence.token_ids[c.start]) for c in chunks]:
            self._step.stage(chunks, places)
        self._expected = None  # until this step is known to have ended well
        forward()
        draw()
        fetched = self._step.fetch()
        done = self._record()

        def collect() -> list[Result]:
            done()
            token_ids = fetched.tolist()
            incomplete = [slot for slot in slots if token_ids[slot] == INCOMPLETE]
            if incomplete:
                for slot, token_id in zip(incomplete, self._step.draw_again(incomplete), strict=True):
                    token_ids[slot] = token_id
            else:
                self._expected = [(c.sequence.id, c.sequence.slot, c.end, token_ids[c.sequence.slot]) for c in chunks]
            return [_result(chunk, token_ids[chunk.sequence.slot]) for chunk in chunks]

        return collect

    def _record(self) -> Callable[[], None]:
        """Mark this point of the device's work; returns what waits for it."""
        if self._device.type != "cuda":
            return _nothing
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event.synchronize

    def _forward_graph(self, batch: int, context: int, adapted: tuple[str, ...] = ()) -> Work:
        """adapted: the linears that adapters change; a graph serves those it was captured with."""
        key = batch, context, adapted
        if key not in self._forwards:
            # with adapters never compiled: this is captured while sequences wait for it
            parts = self._plain if adapted else self._parts[batch]
            self._forwards[key] = self._capture(self._step.forward_work(batch, context, parts, adapted=bool(adapted)))
        return self._forwards[key]

    def _draw_graph(self, batch: int, mode: str) -> Work:
        key = batch, mode
        if key not in self._draws:
            self._draws[key] = self._capture(self._step.draw_work(batch, mode))
        return self._draws[key]

    def _capture(self, work: Work) -> Work:
        self._step.idle()  # capturing runs the work: let all rows idle
        self._expected = None
        return self._graphs.capture(work)


def split(chunks: Seq[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
    """Part those of one token, whose successor is drawn from its logits as they are or not at all, from the others."""
    captured: list[Chunk] = []
    others: list[Chunk] = []
    for chunk in chunks:
        params = chunk.sequence.params
        plain = chunk.end - chunk.start == 1 and params.logprobs is None and not params.edits_logits
        (captured if plain else others).append(chunk)
    return captured, others


def _result(chunk: Chunk, token_id: int) -> Result:
    if not chunk.samples or not chunk.sequence.params.max_tokens:
        return Result(chunk.sequence)
    if token_id == BROKEN:
        return Result(chunk.sequence, finite=False)
    return Result(chunk.sequence, token_id)


def _bucket(sizes: list[int], size: int) -> int:
    """Return the smallest of the sorted sizes that is enough."""
    return sizes[bisect.bisect_left(sizes, size)]


def _nothing() -> None:
    """Wait for nothing: the work was done when it was called."""

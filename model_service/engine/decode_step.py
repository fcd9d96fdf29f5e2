"""One token for every slot, over static buffers: what a CUDA graph captures.

    staged ── (when rows change) ──┐
                                   v
    input_ids, position ─ embed ─ layers ─ head ─ logits ─ draw ─ tokens ── (one copy) ──> the host
         ^                                                         │
         └────────────── for the next step ────────────────────────┘

Row i works in slot i of the cache. A row that has nothing to do is *idle*: it runs along at the last position of the
context. What it writes there is harmless, whoever owns the slot: a sequence reads a position only after writing it, and
prefixes that are reused end before it, since the last token of a prompt is always computed anew. So the rows of a step
can be filled up to a batch bucket, and a captured step can be run once to warm up while sequences are in the cache.

As long as the same rows go on, nothing is uploaded: the step feeds itself.

Attention is torch's memory-efficient kernel: FlashAttention takes no mask. What that asks for: captured_forward.py.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.engine.adapter_places import NO_PLACE, AdapterPlaces, Added
from model_service.engine.device_sampler import CANDIDATES, Rows, draw, greedy, signed, truncates
from model_service.engine.kv_cache import KVCache
from model_service.engine.scheduler import Chunk
from model_service.models.decoder import Decoder
from model_service.models.layers import LayerParts
from model_service.models.lora import Adapter, Host

DRAW_MODES = GREEDY, WHOLE, TRUNCATED = "greedy", "whole", "truncated"  # how much of a sampler a step needs
_INTEGERS = ("input_id", "position", "seed", "top_k", "place")
_FLOATS = ("temperature", "top_p", "min_p")


def causal_mask(reach: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores of queries at `positions` (N,) for keys at `reach` (C,): (N, C)."""
    ahead = reach > positions[:, None]
    return torch.zeros(ahead.shape, dtype=dtype, device=ahead.device).masked_fill_(ahead, -torch.inf)


class DecodeStep:
    """The buffers of up to `num_slots` rows, and the work of a step as functions without arguments.

    The works run in this order: forward, draw. `stage` before them if the rows are not those of the last step.
    """

    def __init__(self, model: Decoder, cache: KVCache, num_slots: int) -> None:
        self._model, self._cache = model, cache
        self.adapters = AdapterPlaces(Host.of(model))
        self._last = model.shape.n_positions - 1
        device, pinned = model.device, model.device.type == "cuda"
        num_fields = len(_INTEGERS) + len(_FLOATS)
        self._staging = torch.zeros(num_fields, num_slots, dtype=torch.int64, pin_memory=pinned)
        self._staged = torch.zeros(num_fields, num_slots, dtype=torch.int64, device=device)
        floats = self._staged.view(torch.float64)  # the same bytes: one copy moves both kinds
        self._fields = {name: self._staged[i] for i, name in enumerate(_INTEGERS)}
        self._fields |= {name: floats[i] for i, name in enumerate(_FLOATS, start=len(_INTEGERS))}
        self._slots = torch.arange(num_slots, device=device)
        self._logits = torch.zeros(num_slots, model.shape.vocab_size, device=device)
        self._tokens = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._fetched = torch.zeros(num_slots, dtype=torch.int64, pin_memory=pinned)
        self.idle()

    def idle(self) -> None:
        """Let all rows idle; waits."""
        self._fill((), {})
        self._staged.copy_(self._staging)

    def stage(self, chunks: Iterable[Chunk], places: Mapping[Adapter, int]) -> None:
        """Put each chunk's token into the row of its slot; all other rows idle. At most once a step: does not wait.

        places: of the chunks' adapters.
        """
        self._fill(chunks, places)
        self._staged.copy_(self._staging, non_blocking=True)

    def _fill(self, chunks: Iterable[Chunk], places: Mapping[Adapter, int]) -> None:
        integers, floats = self._staging.numpy(), self._staging.view(torch.float64).numpy()
        integers[:] = 0
        integers[_INTEGERS.index("position")] = self._last
        integers[_INTEGERS.index("place")] = NO_PLACE
        floats[len(_INTEGERS) + _FLOATS.index("top_p")] = 1
        for chunk in chunks:
            sequence, row, p = chunk.sequence, chunk.sequence.slot, chunk.sequence.params
            token_id = sequence.token_ids[chunk.start]
            place = places[sequence.adapter] if sequence.adapter else NO_PLACE
            integers[: len(_INTEGERS), row] = (token_id, chunk.start, signed(sequence.seed), p.top_k, place)
            floats[len(_INTEGERS) :, row] = (p.temperature, p.top_p, p.min_p)

    def forward_work(self, batch: int, context: int, parts: LayerParts, *, adapted: bool = False) -> Callable[[], None]:
        """Return the work that gives rows below `batch` their logits, from positions below `context`.

        adapted: with the adapters of the linears that have any by now.
        """
        ids, positions, slots = self._field("input_id", batch), self._field("position", batch), self._slots[:batch]
        model, shape = self._model, self._model.shape
        reach = torch.arange(context, device=model.device)

        def work() -> None:
            mask = causal_mask(reach, positions, model.dtype)[:, None, None]  # (B, 1, 1, C)
            x, turns = model.embed(ids, positions), model.rotation(positions)
            strangers = self.adapters.strangers(self._field("place", batch)) if adapted else None
            for layer, block in zip(model.layers, model.blocks, strict=True):
                added = None if strangers is None else Added(self.adapters.pairs(layer), strangers)
                qkv = parts.before(x, block, turns, added)
                self._cache.pairs[layer][:, slots, :, positions] = qkv[:, 1:]  # (B, 2, H, D)
                attended = F.scaled_dot_product_attention(
                    qkv[:, 0, :, None],
                    self._cache.keys[layer][:batch, :, :context],
                    self._cache.values[layer][:batch, :, :context],
                    attn_mask=mask,
                    scale=shape.attention_scale(layer),
                )
                x = parts.after(x, attended.reshape(x.shape), block, added)
            self._logits[:batch] = model.logits(model.finish(x))

        return work

    def draw_work(self, batch: int, mode: str) -> Callable[[], None]:
        """Return the work that draws a token for rows below `batch` and makes it the next step's input."""
        ids, positions, tokens = self._field("input_id", batch), self._field("position", batch), self._tokens[:batch]
        rows, logits = self._rows(slice(batch)), self._logits[:batch]
        candidates = CANDIDATES if mode == TRUNCATED else 0

        def work() -> None:
            positions.add_(1).clamp_(max=self._last)  # where the token that is drawn will stand
            tokens.copy_(greedy(logits) if mode == GREEDY else draw(logits, rows, candidates=candidates))
            torch.clamp(tokens, min=0, out=ids)

        return work

    def fetch(self) -> Tensor:
        """Start copying the drawn tokens to the host; returns where they will be, (num_slots,) int64."""
        return self._fetched.copy_(self._tokens, non_blocking=True)

    def draw_again(self, slots: list[int]) -> list[int]:
        """Draw for rows that were INCOMPLETE, over the whole vocabulary. Only before the next forward; waits."""
        index = torch.tensor(slots, device=self._slots.device)
        logits = self._logits[index]
        return [int(t) for t in draw(logits, self._rows(index), candidates=logits.shape[-1]).tolist()]

    def _field(self, name: str, batch: int) -> Tensor:
        return self._fields[name][:batch]

    def _rows(self, index: slice | Tensor) -> Rows:
        names = ("seed", "position", "temperature", "top_k", "top_p", "min_p")
        return Rows(*(self._fields[name][index] for name in names))


def draw_mode(chunks: Iterable[Chunk]) -> str:
    """Return the least sampler that serves all these sequences; a row's token is the same in each that does."""
    params = [c.sequence.params for c in chunks]
    if all(p.temperature == 0 for p in params):
        return GREEDY
    return TRUNCATED if any(truncates(p) for p in params) else WHOLE

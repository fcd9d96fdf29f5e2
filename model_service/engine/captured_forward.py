"""A TorchForward whose short passes are captured: chunks of prompts as rectangles of rows and tokens.

    chunk a (5 tokens)    a0 a1 a2 a3 a4 a4 a4 a4        a row is filled up with its last token,
    chunk b (8 tokens)    b0 b1 b2 b3 b4 b5 b6 b7
                          a0 a1 a2 a3 a4 a4 a4 a4        the rectangle with its first row

What fills it up writes into the cache what is written there anyway. A pass over few tokens waits for its launches
longer than for the GPU; a captured one does not. Passes with adapters, and those that fit no rectangle, run as ever.

A part of a model has no GraphRunner that decodes for it, so it captures passes over single tokens, too: as a *window*
of slots that lie side by side, so that attention reads the cache where it is.

    slots     0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 ...     micro-batch in slots 5 to 9: window 4 to 11;
                        . b b b   b b  .  .              rows without work idle (see decode_step.py)

FlashAttention takes no mask and no lengths per row, so both kinds run torch's memory-efficient kernel: FP16, BF16 and
float32, scores in float32, nothing of the size queries x keys in memory. What it asks for holds here: each head's
numbers side by side, heads a multiple of 8, a mask in the queries' format whose rows start at multiples of 16 bytes
(contexts are multiples of 8; torch copies the mask of one that is not).
"""

import bisect
from collections.abc import Sequence as Seq

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.engine.decode_step import causal_mask
from model_service.engine.forward import TorchForward
from model_service.engine.graphs import Graphs, Work
from model_service.engine.scheduler import Chunk
from model_service.engine.workspace import most_rows
from model_service.models.decoder import Decoder

RECTANGLES = (  # rows, tokens
    *((1, 16), (1, 64), (1, 256), (1, 512), (4, 16)),
    *((4, 64), (4, 256), (16, 16), (16, 64), (32, 16)),
)
CONTEXTS = (128, 512)  # and the model's own
WINDOW_CONTEXTS = (128, 256, 512, 1024)  # and the model's own: a window reads all of it, in vain beyond its longest row
BLOCKS = 8  # of slots, at most: windows are runs of them


def rectangles(num_slots: int) -> list[tuple[int, int]]:
    """Return those that so few sequences can fill: a wider one would only gather keys and values in vain."""
    return [(rows, tokens) for rows, tokens in RECTANGLES if rows <= most_rows(num_slots)]


class CapturedForward(TorchForward):
    """See the module. `graphs` are those of the runner too, so that all share their memory."""

    def __init__(self, model: Decoder, num_slots: int, graphs: Graphs) -> None:
        super().__init__(model, num_slots)
        self.graphs = graphs
        self._rectangles = sorted(rectangles(num_slots), key=lambda r: r[0] * r[1])
        self._windows = [] if model.is_first and model.is_last else windows(num_slots)
        self._last = model.shape.n_positions - 1
        most = max(self._rectangles[-1][0] * self._rectangles[-1][1], num_slots)
        self._staged = torch.zeros(3, most, dtype=torch.int64, device=model.device)
        self._ids, self._positions, self._slots = self._staged
        self._in = torch.zeros(most, model.shape.n_embd, dtype=model.dtype, device=model.device)
        self._out = torch.zeros_like(self._in)
        self._passes: dict[tuple[object, ...], Work] = {}

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture every rectangle and window with every context it can have. Before the first sequence."""
        for rows, tokens in reversed(self._rectangles):
            for context in (c for c in self._contexts(CONTEXTS) if c >= tokens):
                self._rectangle(rows, tokens, context)
        for window in reversed(self._windows):
            for context in self._contexts(WINDOW_CONTEXTS):
                self._window(window, context)

    def hidden(self, chunks: Seq[Chunk], x: Tensor | None = None) -> Tensor:
        """Run the chunks' tokens through all its layers. Returns (N, E)."""
        if any(c.sequence.adapter for c in chunks):
            return super().hidden(chunks, x)
        if not self._windows:
            return self._prompts(chunks, x)
        num_single = sum(c.end - c.start == 1 for c in chunks)
        made = []
        if num_single:
            made.append(self._single(chunks[:num_single], None if x is None else x[:num_single]))
        if num_single < len(chunks):
            made.append(self._prompts(chunks[num_single:], None if x is None else x[num_single:]))
        return made[0] if len(made) == 1 else torch.cat(made)

    def _prompts(self, chunks: Seq[Chunk], x: Tensor | None) -> Tensor:
        """Run chunks in the smallest rectangle that holds them."""
        sizes = [c.end - c.start for c in chunks]
        rows, tokens = next((r for r in self._rectangles if r[0] >= len(sizes) and r[1] >= max(sizes)), (0, 0))
        if not rows:
            return super().hidden(chunks, x)
        run = self._rectangle(rows, tokens, self._context(chunks, CONTEXTS))
        filled = [*chunks, *[chunks[0]] * (rows - len(chunks))]
        positions = [min(c.start + j, c.end - 1) for c in filled for j in range(tokens)]
        ids = [c.sequence.token_ids[p] for c, p in zip(_repeated(filled, tokens), positions, strict=True)]
        slots = [c.sequence.slot for c in _repeated(filled, tokens)]
        self._staged[:, : rows * tokens] = self._upload([ids, positions, slots])
        if x is not None:
            # where in x each chunk's position 0 would be
            firsts = [sum(sizes[:i]) - c.start for i, c in enumerate(chunks)]
            firsts += firsts[:1] * (rows - len(chunks))
            sources = [firsts[i // tokens] + position for i, position in enumerate(positions)]
            self._in[: rows * tokens] = self._here(x)[self._upload(sources)]
        run()
        return self._out[self._upload([i * tokens + j for i, size in enumerate(sizes) for j in range(size)])]

    def _single(self, chunks: Seq[Chunk], x: Tensor | None) -> Tensor:
        """Run single tokens in the smallest window over their slots."""
        slots = [c.sequence.slot for c in chunks]
        window = next(w for w in self._windows if w.start <= min(slots) and max(slots) < w.stop)
        run = self._window(window, self._context(chunks, WINDOW_CONTEXTS))
        ids, positions = [0] * len(window), [self._last] * len(window)
        rows = [slot - window.start for slot in slots]
        for row, chunk in zip(rows, chunks, strict=True):
            ids[row], positions[row] = chunk.sequence.token_ids[chunk.start], chunk.start
        self._staged[:2, : len(window)] = self._upload([ids, positions])
        used = self._upload(rows)
        if x is not None:
            self._in[: len(window)].zero_().index_copy_(0, used, self._here(x))
        run()
        return self._out[used]

    def _contexts(self, contexts: Seq[int]) -> list[int]:
        return [*(c for c in contexts if c <= self._last), self._last + 1]

    def _context(self, chunks: Seq[Chunk], contexts: Seq[int]) -> int:
        possible = self._contexts(contexts)
        return possible[bisect.bisect_left(possible, max(c.end for c in chunks))]

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self._in.device, self._in.dtype, non_blocking=True)

    def _upload(self, numbers: list[int] | list[list[int]]) -> Tensor:
        """Bring numbers to the device without waiting for it."""
        tensor = torch.tensor(numbers)
        if self._out.is_cuda:
            tensor = tensor.pin_memory()  # torch keeps it until its copy is done
        return tensor.to(self._out.device, non_blocking=True)

    def _rectangle(self, rows: int, tokens: int, context: int) -> Work:
        key = rows, tokens, context
        if key not in self._passes:
            slots = self._slots[: rows * tokens]
            self._capture(key, self._work(slots, tokens, context, slots[::tokens]))
        return self._passes[key]

    def _window(self, window: range, context: int) -> Work:
        key = window, context
        if key not in self._passes:
            slots = torch.arange(window.start, window.stop, device=self._slots.device)
            self._capture(key, self._work(slots, 1, context, slice(window.start, window.stop)))
        return self._passes[key]

    def _capture(self, key: tuple[object, ...], work: Work) -> None:
        self._positions.fill_(self._last)  # harmless, see decode_step.py
        self._passes[key] = self.graphs.capture(work)

    def _work(self, slots: Tensor, tokens: int, context: int, rows: Tensor | slice) -> Work:
        """Return the pass over a token in each of these slots (N,); rows: the slot of each `tokens` of them."""
        count = len(slots)
        ids, positions = self._ids[:count], self._positions[:count]
        model, cache, shape = self.model, self.cache, self.model.shape
        reach = torch.arange(context, device=model.device)
        heads = (-1, tokens, shape.n_head, shape.head_size)

        def work() -> None:
            mask = causal_mask(reach, positions, model.dtype).view(-1, 1, tokens, context)
            x = model.embed(ids, positions) if model.is_first else self._in[:count]
            turns = model.rotation(positions)
            for layer, block in zip(model.layers, model.blocks, strict=True):
                qkv = model.parts.before(x, block, turns, None)
                cache.pairs[layer][:, slots, :, positions] = qkv[:, 1:]  # (N, 2, H, D)
                attended = F.scaled_dot_product_attention(
                    qkv[:, 0].view(heads).transpose(1, 2),
                    _beginnings(cache.keys[layer], rows, context),
                    _beginnings(cache.values[layer], rows, context),
                    attn_mask=mask,
                    scale=shape.attention_scale(layer),
                )
                x = model.parts.after(x, attended.transpose(1, 2).reshape(x.shape), block, None)
            self._out[:count] = model.finish(x)

        return work


def windows(num_slots: int) -> list[range]:
    """Return the slots that passes over single tokens work on, the shortest first.

    The first 1, 2, 4 and 8, which few sequences have, and all runs of up to 8 blocks: 40 windows at most.
    """
    block = max(4, -(-num_slots // BLOCKS))
    ends = [*range(block, num_slots, block), num_slots]
    runs = {range(start, end) for start in range(0, num_slots, block) for end in ends if end > start}
    return sorted(runs | {range(n) for n in (1, 2, 4, 8) if n < num_slots}, key=lambda w: (len(w), w.start))


def _beginnings(cache: Tensor, rows: Tensor | slice, context: int) -> Tensor:
    """Return (rows, H, context, D) of a cache (S, H, T, D): a copy, or a view of a window."""
    beginnings = cache[:, :, :context]
    return beginnings[rows] if isinstance(rows, slice) else beginnings.index_select(0, rows)


def _repeated(chunks: Seq[Chunk], times: int) -> list[Chunk]:
    return [c for c in chunks for _ in range(times)]

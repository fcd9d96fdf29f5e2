"""A TorchForward whose short passes are captured: chunks of prompts as rectangles of rows and tokens.

    chunk a (5 tokens)    a0 a1 a2 a3 a4 a4 a4 a4        a row is filled up with its last token,
    chunk b (8 tokens)    b0 b1 b2 b3 b4 b5 b6 b7
                          a0 a1 a2 a3 a4 a4 a4 a4        the rectangle with its first row

What fills it up writes into the cache what is written there anyway. A pass over few tokens waits for its launches
longer than for the GPU; a captured one does not. Passes with adapters, and those that fit no rectangle, run as ever.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch
import torch.nn.functional as F
from torch import Tensor

from model_service.engine.decode_step import causal_mask
from model_service.engine.forward import TorchForward
from model_service.engine.graphs import Graphs, Work
from model_service.engine.scheduler import Chunk
from model_service.models.decoder import Decoder

RECTANGLES = (  # rows, tokens
    *((1, 16), (1, 64), (1, 256), (1, 512), (4, 16)),
    *((4, 64), (4, 256), (16, 16), (16, 64), (32, 16)),
)
CONTEXTS = (128, 512)  # and the model's own


class CapturedForward(TorchForward):
    """See the module. `graphs` are those of the runner too, so that all share their memory."""

    def __init__(self, model: Decoder, num_slots: int, graphs: Graphs) -> None:
        super().__init__(model, num_slots)
        self.graphs = graphs
        self._contexts = [*(c for c in CONTEXTS if c < model.shape.n_positions), model.shape.n_positions]
        self._rectangles = sorted(RECTANGLES, key=lambda r: r[0] * r[1])
        most = self._rectangles[-1][0] * self._rectangles[-1][1]
        self._staged = torch.zeros(3, most, dtype=torch.int64, device=model.device)
        self._ids, self._positions, self._slots = self._staged
        self._out = torch.zeros(most, model.shape.n_embd, dtype=model.dtype, device=model.device)
        self._passes: dict[tuple[int, int, int], Work] = {}

    def hidden(self, chunks: Seq[Chunk]) -> Tensor:
        """Run the chunks' tokens through all layers. Returns (N, E)."""
        sizes = [c.end - c.start for c in chunks]
        fitting = (r for r in self._rectangles if r[0] >= len(sizes) and r[1] >= max(sizes))
        rectangle = next(fitting, None)
        if rectangle is None or any(c.sequence.adapter for c in chunks):
            return super().hidden(chunks)
        context = next(c for c in self._contexts if c >= max(chunk.end for chunk in chunks))
        run = self._pass(*rectangle, context)
        self._stage(chunks, *rectangle)
        run()
        used = [i * rectangle[1] + j for i, size in enumerate(sizes) for j in range(size)]
        return self._out[self._upload(used)]

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture every rectangle with every context it can have. Before the first sequence."""
        for rows, tokens in reversed(self._rectangles):
            for context in (c for c in self._contexts if c >= tokens):
                self._pass(rows, tokens, context)

    def _pass(self, rows: int, tokens: int, context: int) -> Work:
        key = rows, tokens, context
        if key not in self._passes:
            self._positions.fill_(self.model.shape.n_positions - 1)  # harmless, see decode_step.py
            self._passes[key] = self.graphs.capture(self._work(rows, tokens, context))
        return self._passes[key]

    def _stage(self, chunks: Seq[Chunk], rows: int, tokens: int) -> None:
        """Fill the first rows * tokens of the buffers."""
        filled = [*chunks, *[chunks[0]] * (rows - len(chunks))]
        positions = [min(c.start + j, c.end - 1) for c in filled for j in range(tokens)]
        ids = [c.sequence.token_ids[p] for c, p in zip(_repeated(filled, tokens), positions, strict=True)]
        slots = [c.sequence.slot for c in _repeated(filled, tokens)]
        self._staged[:, : rows * tokens] = self._upload([ids, positions, slots])

    def _upload(self, numbers: list[int] | list[list[int]]) -> Tensor:
        """Bring numbers to the device without waiting for it."""
        tensor = torch.tensor(numbers)
        if self._out.is_cuda:
            tensor = tensor.pin_memory()  # torch keeps it until its copy is done
        return tensor.to(self._out.device, non_blocking=True)

    def _work(self, rows: int, tokens: int, context: int) -> Callable[[], None]:
        count = rows * tokens
        ids, positions, slots = self._ids[:count], self._positions[:count], self._slots[:count]
        model, cache, shape = self.model, self.cache, self.model.shape
        reach = torch.arange(context, device=model.device)

        def work() -> None:
            mask = causal_mask(reach, positions, model.dtype).view(rows, 1, tokens, context)
            x, turns = model.embed(ids, positions), model.rotation(positions)
            for layer, block in zip(model.layers, model.blocks, strict=True):
                qkv = model.parts.before(x, block, turns, None).view(rows, tokens, 3, shape.n_head, shape.head_size)
                cache.pairs[layer][:, slots, :, positions] = qkv[:, :, 1:].flatten(0, 1)  # (N, 2, H, D)
                attended = F.scaled_dot_product_attention(
                    qkv[:, :, 0].transpose(1, 2),
                    cache.keys[layer][:, :, :context].index_select(0, slots[::tokens]),
                    cache.values[layer][:, :, :context].index_select(0, slots[::tokens]),
                    attn_mask=mask,
                    scale=shape.attention_scale(layer),
                )
                x = model.parts.after(x, attended.transpose(1, 2).reshape(x.shape), block, None)
            self._out[:count] = model.finish(x)

        return work


def _repeated(chunks: Seq[Chunk], times: int) -> list[Chunk]:
    return [c for c in chunks for _ in range(times)]

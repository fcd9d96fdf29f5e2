"""Runs a GPT-2 with a sequence-classification head: one label per text, read at its last token."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from model_service.errors import RequestRefused
from model_service.models.decoder import Decoder


class Classifier:
    """One loaded classifier, on a thread of its own. `labels` are in label-id order."""

    def __init__(
        self,
        model_id: str,
        model: Decoder,
        score: Tensor,
        tokenizer: Tokenizer,
        labels: list[str],
        weights: str,
        size_bytes: int,
        device_map: tuple[tuple[str, str], ...],
    ) -> None:
        """score: (C, E), the head's weight. device_map: which layers are on which device."""
        self.model_id, self.labels, self.device_map = model_id, labels, device_map
        self.weights, self.size_bytes = weights, size_bytes
        self.tokenizer = tokenizer
        self._model, self._score = model, score
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"classifier-{model_id}")

    @property
    def context_len(self) -> int:
        """Tokens a text may have."""
        return self._model.shape.n_positions

    async def classify(self, texts: list[str]) -> list[list[float]]:
        """Return each text's probabilities in label-id order. Raises RequestRefused for an empty or too long text."""
        encoded = [list(self.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
        for index, ids in enumerate(encoded):
            if not ids:
                raise RequestRefused(f"Text {index} of the input is empty.", param="input")
            if len(ids) > self.context_len:
                raise RequestRefused(
                    f"Text {index} of the input has {len(ids)} tokens; this model reads at most {self.context_len}.",
                    param="input",
                )
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, encoded)

    async def close(self) -> None:
        """Let the running call end, and stop the thread."""
        await asyncio.to_thread(self._thread.shutdown)

    @torch.inference_mode()
    def _run(self, encoded: list[list[int]]) -> list[list[float]]:
        """One text at a time: its probabilities cannot depend on its neighbours."""
        return [self._probs(torch.tensor(ids, device=self._model.device)).tolist() for ids in encoded]

    def _probs(self, input_ids: Tensor) -> Tensor:
        """input_ids: (T,). Returns (C,) float32."""
        shape = self._model.shape

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))  # (1, H, T, D)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=shape.attention_scale(layer))
            return out[0].transpose(0, 1)

        positions = torch.arange(len(input_ids), device=input_ids.device)
        last = self._model.hidden(input_ids, positions, attend)[-1]
        return F.linear(last, self._score).float().softmax(dim=-1)

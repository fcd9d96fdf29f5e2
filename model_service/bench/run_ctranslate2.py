"""CTranslate2's generator as a contestant, with one thread per core."""

import json
from pathlib import Path

from model_service.bench.task import Task
from model_service.bench.threads import cores


class CTranslate2:
    """A `ctranslate2.Generator`. Tokens are ids as words; a least length keeps it from ending early."""

    def __init__(self, folder: Path, weights: str, device: str) -> None:
        import ctranslate2

        self.weights = weights
        self._vocab_size = len(json.loads((folder / "vocabulary.json").read_text(encoding="utf-8")))
        self._generator = ctranslate2.Generator(
            str(folder),
            device="cuda" if device.startswith("cuda") else "cpu",
            compute_type=weights,
            inter_threads=1,
            intra_threads=cores(),
        )

    def prepare(self, task: Task) -> None:
        """Need nothing: its buffers grow in the untimed first run."""

    def run(self, task: Task) -> list[list[int]]:
        """Generate greedily."""
        prompts = [[str(i) for i in ids] for ids in task.prompts(self._vocab_size)]
        made = self._generator.generate_batch(
            prompts,
            beam_size=1,
            sampling_topk=1,
            min_length=task.new_tokens,
            max_length=task.new_tokens,
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in made]

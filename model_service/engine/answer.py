"""Turns one sequence's results into pieces: text, stop strings, echo, finish reasons. On the engine's thread."""

from collections.abc import Sequence as Seq

from model_service.engine.detokenizer import Detokenizer
from model_service.engine.runner import Result
from model_service.engine.sequence import FinishReason, Piece, Sequence, TokenLogprob


class Answer:
    """A sequence with its text so far."""

    def __init__(self, sequence: Sequence, table: Seq[bytes], eos_token_id: int) -> None:
        self.sequence = sequence
        self._table = table
        self._eos_token_id = eos_token_id
        self._detokenizer = Detokenizer(table, sequence.params.stop)
        self._echoed: list[TokenLogprob] = []

    def add(self, result: Result) -> Piece | None:
        """Take a step's result; return what is new for the reader, if anything is."""
        self._echoed += result.prompt_logprobs
        sequence, token_id = self.sequence, result.token_id
        echo = self._echo() if sequence.num_generated == 0 and self._prompt_read() else Piece()
        if token_id is None:
            return echo + Piece(finish_reason="length") if self._prompt_read() else None
        if token_id == self._eos_token_id:
            return echo + Piece(self._detokenizer.flush(), (), (), "stop")
        sequence.token_ids.append(token_id)
        text = self._detokenizer.push(token_id)
        reason: FinishReason | None = None
        if self._detokenizer.stopped:
            reason = "stop"
        elif sequence.num_generated >= sequence.params.max_tokens:
            reason, text = "length", text + self._detokenizer.flush()
        logprobs = () if result.logprob is None or sequence.params.logprobs is None else (result.logprob,)
        return echo + Piece(text, (token_id,), logprobs, reason)

    def _prompt_read(self) -> bool:
        return self.sequence.num_computed >= self.sequence.prompt_len

    def _echo(self) -> Piece:
        if not self.sequence.params.echo:
            return Piece()
        ids = self.sequence.token_ids[: self.sequence.prompt_len]
        text = b"".join(self._table[t] for t in ids if t < len(self._table)).decode("utf-8", "replace")
        return Piece(text, tuple(ids), tuple(self._echoed))

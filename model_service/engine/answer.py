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
        self._end = sequence.prompt_len + sequence.params.max_tokens
        self._detokenizer = Detokenizer(table, sequence.params.stop)
        self._echo_due = sequence.params.echo
        self._echoed: list[TokenLogprob] = []

    def add(self, result: Result) -> Piece | None:
        """Take a step's result; return what is new for the reader, if anything is."""
        self._echoed += result.prompt_logprobs
        if result.token_id is not None:
            piece = self._next(result.token_id, result.logprob)
        elif self.sequence.num_landed >= self.sequence.prompt_len:
            piece = Piece(finish_reason="length")  # the prompt was read, and nothing was to follow
        else:
            return None
        if self._echo_due:
            self._echo_due = False
            piece = self._echo() + piece
        return piece

    def _next(self, token_id: int, logprob: TokenLogprob | None) -> Piece:
        """Return the piece of one new token. End-of-text has no text, but a log-probability like any other token."""
        sequence = self.sequence
        logprobs = () if logprob is None or sequence.params.logprobs is None else (logprob,)
        if token_id == self._eos_token_id:
            return Piece(self._detokenizer.flush(), (), logprobs, "stop")
        sequence.token_ids.append(token_id)
        text = self._detokenizer.push(token_id)
        reason: FinishReason | None = None
        if self._detokenizer.stopped:
            reason = "stop"
        elif len(sequence.token_ids) >= self._end:
            reason, text = "length", text + self._detokenizer.flush()
        return Piece(text, (token_id,), logprobs, reason)

    def _echo(self) -> Piece:
        ids = self.sequence.token_ids[: self.sequence.prompt_len]
        text = b"".join(self._table[t] for t in ids if t < len(self._table)).decode("utf-8", "replace")
        return Piece(text, tuple(ids), tuple(self._echoed))

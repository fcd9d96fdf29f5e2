"""Writes log-probabilities in OpenAI's shape: tokens as text, half characters as `bytes:\\xe2\\x80`."""

import codecs
from functools import lru_cache

from tokenizers import Tokenizer

from model_service.api.schemas import Logprobs
from model_service.engine.detokenizer import token_bytes
from model_service.engine.sequence import TokenLogprob

LOWEST = -9999.0  # JSON has no minus infinity; what OpenAI writes


class TokenNames:
    """How each token id of one model reads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._table = token_bytes(tokenizer)

    def bytes(self, token_id: int) -> bytes:
        """Return what the token adds to the text; special tokens and padding ids add nothing."""
        return self._table[token_id] if token_id < len(self._table) else b""

    def name(self, token_id: int) -> str:
        """Return a text that no other token of the model has."""
        raw = self.bytes(token_id)
        if not raw:
            return self._tokenizer.id_to_token(token_id) or f"<{token_id}>"
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@lru_cache(maxsize=8)
def names_of(tokenizer: Tokenizer) -> TokenNames:
    """Return the names of a tokenizer's tokens, built once per loaded model."""
    return TokenNames(tokenizer)


class LogprobWriter:
    """One choice's log-probabilities; remembers the offset from chunk to chunk."""

    def __init__(self, names: TokenNames, num_top: int) -> None:
        self._names, self._num_top = names, num_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(self, logprobs: tuple[TokenLogprob, ...]) -> Logprobs:
        """Return the next tokens' entries."""
        offsets = []
        for entry in logprobs:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._names.bytes(entry.token_id)))
        return Logprobs(
            tokens=[self._names.name(entry.token_id) for entry in logprobs],
            token_logprobs=[None if entry.logprob is None else max(entry.logprob, LOWEST) for entry in logprobs],
            top_logprobs=[self._top(entry) for entry in logprobs] if self._num_top else None,
            text_offset=offsets,
        )

    def _top(self, entry: TokenLogprob) -> dict[str, float] | None:
        if entry.logprob is None:
            return None
        top = entry.top if entry.token_id in entry.top else entry.top | {entry.token_id: entry.logprob}
        return {self._names.name(token_id): max(logprob, LOWEST) for token_id, logprob in top.items()}

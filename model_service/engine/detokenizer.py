"""Turns token ids into text as they come. Pure Python: no torch here.

A token is bytes, not characters: half an emoji waits for its other half. Text that may be the
beginning of a stop string waits too, so nothing is shown that a stop string then takes back.
"""

import codecs
from collections.abc import Sequence as Seq
from functools import lru_cache

from tokenizers import Tokenizer


def _byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable stand-in for each byte, reversed (OpenAI's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    stand_ins = {b: b for b in printable} | {b: 256 + i for i, b in enumerate(others)}
    return {chr(c): b for b, c in stand_ins.items()}


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """Return each token's bytes; special tokens have none. Raises ValueError if the vocabulary is not byte-level."""
    alphabet = _byte_alphabet()
    table = [b""] * tokenizer.get_vocab_size()
    special = set(tokenizer.get_added_tokens_decoder())
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in special:
            continue
        if not all(c in alphabet for c in token):
            raise ValueError(f"token {token!r} is not of a byte-level vocabulary")
        table[token_id] = bytes(alphabet[c] for c in token)
    return table


@lru_cache(maxsize=32)  # the candidates of a request share theirs, and so do most requests
def _beginnings(stop: tuple[str, ...]) -> tuple[str, ...]:
    """Return all that may become one of the stop strings."""
    return tuple({s[:n] for s in stop for n in range(1, len(s))})


class Detokenizer:
    """One answer's text. `push` each token, `flush` at the end; `stopped` once a stop string was found."""

    def __init__(self, table: Seq[bytes], stop: tuple[str, ...] = ()) -> None:
        self._table = table
        self._stop = stop
        self._beginnings = _beginnings(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._in_character = False  # the decoder holds a part of one
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that this token makes certain; ids past the vocabulary (padding rows) have none."""
        text = self._decode(self._table[token_id] if token_id < len(self._table) else b"")
        if not self._stop:
            return text
        text = self._held + text
        if found := [i for s in self._stop if (i := text.find(s)) >= 0]:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = self._possible_stop(text) if text.endswith(self._beginnings) else 0
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; nothing follows."""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return "" if self.stopped else text

    def _decode(self, new: bytes) -> str:
        """Return the characters that are whole now. Nearly every token is, and skips the decoder's bookkeeping."""
        if not self._in_character:
            try:
                return new.decode()
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(new)
        self._in_character = bool(self._decoder.getstate()[0])
        return text

    def _possible_stop(self, text: str) -> int:
        """Return how many characters at the end may begin a stop string: as many as the longest beginning there."""
        return max(len(beginning) for beginning in self._beginnings if text.endswith(beginning))

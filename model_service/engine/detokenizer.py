"""Turns token ids into text as they come. Pure Python: no torch here.

A token is bytes, not characters: half an emoji waits for its other half. Text that may be the
beginning of a stop string waits too, so nothing is shown that a stop string then takes back.
"""

import codecs
from collections.abc import Sequence as Seq

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


class Detokenizer:
    """One answer's text. `push` each token, `flush` at the end; `stopped` once a stop string was found."""

    def __init__(self, table: Seq[bytes], stop: tuple[str, ...] = ()) -> None:
        self._table = table
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that this token makes certain; ids past the vocabulary (padding rows) have none."""
        new = self._table[token_id] if token_id < len(self._table) else b""
        self._held += self._decoder.decode(new)
        found = [i for s in self._stop if (i := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = self._possible_stop()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def flush(self) -> str:
        """Return what was held back; nothing follows."""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return "" if self.stopped else text

    def _possible_stop(self) -> int:
        """Return how many characters at the end may begin a stop string."""
        return max(
            (n for s in self._stop for n in range(1, min(len(s), len(self._held) + 1)) if self._held.endswith(s[:n])),
            default=0,
        )

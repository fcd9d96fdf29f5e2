"""How many tokens of prompts a step may read, so that nobody's stream stops while a long prompt is read.

    a step's time  =  the streams' own part  +  prompt tokens x time per token
                      └ measured in steps without prompts     └ measured in steps with both

With streams running, a step may take `STRETCH` times what it takes without prompts. Nobody streaming, it reads as much
as one pass takes. Pure Python, and no clock: the engine says what each step took.
"""

STRETCH = 1.8  # the promise is three median steps at the 99th percentile; steps of the same work differ, too
LEAST_TOKENS = 8  # so that a prompt goes on; more where fewer take as long
SLOW = 0.25  # weight of a new measurement
HICCUP = 2.0  # what takes more than this many times the usual is counted as that: it was the machine, not the model


class PrefillBudget:
    """Measures steps (`record`) and says how many prompt tokens the next one may read (`tokens`).

    Between `least` and `most`; `first` beside streams as long as nothing is known.
    """

    def __init__(self, most: int = 512, least: int = LEAST_TOKENS, first: int = 16) -> None:
        assert 0 < least <= most
        self.most, self.least, self._first = most, least, max(first, least)
        self._stream_s: dict[int, float] = {}  # by size class of the batch: a step without prompts
        self._token_s: float | None = None  # a prompt's token, beside streams

    def tokens(self, num_streams: int) -> int:
        """Return the budget of a step in which this many sequences get one token each."""
        if not num_streams:
            return self.most
        stream_s = self._expected_s(num_streams)
        if stream_s is None or self._token_s is None:
            return min(self._first, self.most)
        return max(self.least, min(self.most, int((STRETCH - 1) * stream_s / self._token_s)))

    def record(self, num_streams: int, num_prompt_tokens: int, took_s: float) -> None:
        """Learn from a step that has run."""
        if not num_streams or took_s <= 0:
            return  # nobody's stream waited
        stream_s = self._expected_s(num_streams)
        if not num_prompt_tokens:
            self._stream_s[_size_class(num_streams)] = _average(stream_s, took_s)
        elif stream_s is not None:
            token_s = max(took_s - stream_s, 0.05 * took_s) / num_prompt_tokens
            self._token_s = _average(self._token_s, token_s)

    def _expected_s(self, num_streams: int) -> float | None:
        """Return what a step of these streams takes without prompts, from the nearest size there is."""
        size = _size_class(num_streams)
        nearest = min(self._stream_s, key=lambda known: (abs(known - size), known), default=None)
        return None if nearest is None else self._stream_s[nearest]


def _size_class(num_streams: int) -> int:
    return num_streams.bit_length()


def _average(mean: float | None, value: float) -> float:
    if mean is None:
        return value
    return mean + SLOW * (min(value, mean * HICCUP) - mean)

"""Into how many micro-batches the running sequences of a split model are divided: one per stage, or one in all.

    one per stage    stage 0 | a | b | a | b |        both work all the time, each on half of the sequences
                     stage 1     | a | b | a |
    one in all       stage 0 | ab|   | ab|   |        one works at a time; but a few rows take as long as half of them
                     stage 1     | ab|   | ab|        where reading the weights is what takes the time

Which gives more tokens a second depends on the machine and on how many there are, so both are tried for a few steps
and the better one is kept, to be doubted again later. Pure Python, and no clock: the engine says when steps ended.
"""

from dataclasses import dataclass

TRIAL_TOKENS = 6  # per sequence, in a measurement
DOUBT_TOKENS = 600  # per sequence, between two trials of what was slower
SLOW = 0.5  # weight of a new measurement
MARGIN = 1.03  # several must be faster by this: what is within the noise is not worth their waiting for each other


@dataclass(slots=True)
class _Window:
    """Steps of one size class with one choice, nothing else between them."""

    began: float
    num_tokens: int = 0


class MicroBatches:
    """Tells how many to make (`choose`) and learns from steps that ended (`record`)."""

    def __init__(self, num_stages: int) -> None:
        self.num_stages = num_stages
        self._rates: dict[tuple[int, int], float] = {}  # (size class, choice) -> tokens per second
        self._since_trial: dict[int, int] = {}  # by size class: tokens since what was slower was tried
        self._choice = (0, 1)  # size class, micro-batches
        self._window: _Window | None = None
        self._unsettled = 0  # steps of another choice may still end

    def choose(self, num_streams: int) -> int:
        """Return how many micro-batches to have in flight for this many sequences."""
        if self.num_stages == 1:
            return 1
        choice = num_streams.bit_length(), self._best(num_streams)
        if choice != self._choice or not num_streams:
            self._choice, self._window, self._unsettled = choice, None, self.num_stages
        return choice[1]

    def record(self, num_streams: int, num_prompt_tokens: int, now: float) -> None:
        """Learn from a step that has just ended, at `now` seconds."""
        if self.num_stages == 1:
            return
        if num_prompt_tokens or self._unsettled:
            self._unsettled = max(0, self._unsettled - 1)
            self._window = None
        elif self._window is None:
            self._window = _Window(now)
        else:
            self._window.num_tokens += num_streams
            self._measure(self._window, now)

    def rate(self, num_streams: int, micro_batches: int) -> float | None:
        """Return the measured tokens per second, if there are any yet."""
        return self._rates.get((num_streams.bit_length(), micro_batches))

    def _best(self, num_streams: int) -> int:
        if num_streams < self.num_stages:
            return 1
        size = num_streams.bit_length()
        many, one = (self._rates.get((size, choice)) for choice in (self.num_stages, 1))
        if many is None or one is None:
            return self.num_stages if many is None else 1
        better, other = (self.num_stages, 1) if many >= one * MARGIN else (1, self.num_stages)
        return other if self._doubted(size) else better

    def _doubted(self, size: int) -> bool:
        return self._since_trial.get(size, 0) >= DOUBT_TOKENS << size

    def _measure(self, window: _Window, now: float) -> None:
        size, _ = self._choice
        if window.num_tokens < TRIAL_TOKENS << size or now <= window.began:
            return
        rate = window.num_tokens / (now - window.began)
        known = self._rates.get(self._choice)
        fresh = known is None or self._doubted(size)
        self._rates[self._choice] = rate if known is None or fresh else known + SLOW * (rate - known)
        self._since_trial[size] = 0 if fresh else self._since_trial[size] + window.num_tokens
        self._window = None

"""Without torch: the scheduler keeps slots dense and streams running; the detokenizer never takes text back."""

import random
import subprocess
import sys

import pytest

from model_service.engine.detokenizer import Detokenizer
from model_service.engine.prefill_budget import PrefillBudget
from model_service.engine.scheduler import Move, Scheduler
from model_service.engine.sequence import SamplingParams, Sequence, Status

BYTES = [bytes([i]) for i in range(256)]


def make_sequence(id: int, prompt_len: int = 1) -> Sequence:
    return Sequence(id, [0] * prompt_len, SamplingParams(), seed=0)


def run(scheduler: Scheduler) -> list[tuple[int, int]]:
    """One step in which every due sequence gets a token; returns (id, tokens computed)."""
    chunks = scheduler.schedule().chunks
    for chunk in chunks:
        chunk.sequence.num_computed = chunk.end
        if chunk.samples:
            chunk.sequence.token_ids.append(0)
    return [(c.sequence.id, c.end - c.start) for c in chunks]


def test_a_sequence_joins_in_the_step_after_a_slot_is_free() -> None:
    scheduler = Scheduler(2)
    a, b, c = (make_sequence(i) for i in range(3))
    for sequence in (a, b, c):
        scheduler.add(sequence)
    assert run(scheduler) == [(0, 1), (1, 1)]
    assert scheduler.finish(a) == Move(source=1, target=0, length=1)
    assert b.slot == 0
    assert run(scheduler) == [(1, 1), (2, 1)]


def test_a_long_prompt_is_read_in_chunks_beside_running_streams() -> None:
    scheduler = Scheduler(3, PrefillBudget(most=10, first=10))
    scheduler.add(make_sequence(0))
    run(scheduler)
    scheduler.add(make_sequence(1, prompt_len=25))
    scheduler.add(make_sequence(2, prompt_len=5))
    assert run(scheduler) == [(0, 1), (1, 5), (2, 5)], "a short one does not wait for it"
    assert run(scheduler) == [(0, 1), (1, 10), (2, 1)]
    assert run(scheduler) == [(0, 1), (1, 10), (2, 1)]
    assert run(scheduler) == [(0, 1), (1, 1), (2, 1)]


def test_slots_stay_dense_under_random_joining_and_leaving() -> None:
    rng = random.Random(0)
    scheduler, alive = Scheduler(5, PrefillBudget(most=7, least=1)), []
    for i in range(500):
        if rng.random() < 0.4:
            alive.append(make_sequence(i, rng.randint(1, 20)))
            scheduler.add(alive[-1])
        if alive and rng.random() < 0.4:
            gone = alive.pop(rng.randrange(len(alive)))
            scheduler.finish(gone)
            assert gone.status == Status.FINISHED
        run(scheduler)
        assert [s.slot for s in scheduler.running] == list(range(len(scheduler.running)))
        assert len(scheduler.running) + len(scheduler.waiting) == len(alive)


def push_all(detokenizer: Detokenizer, content: bytes) -> list[str]:
    out = []
    for byte in content:
        out.append(detokenizer.push(byte))
        if detokenizer.stopped:
            break
    return [*out, detokenizer.flush()]


def test_half_a_character_waits_for_the_rest() -> None:
    assert push_all(Detokenizer(BYTES), "é😀".encode()) == ["", "é", "", "", "", "😀", ""]


def test_a_character_that_never_completes_is_replaced_at_the_end() -> None:
    assert push_all(Detokenizer(BYTES), b"a\xf0") == ["a", "", "�"]


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("hello world", ("lo w",), "hel"),
        ("aab", ("ab",), "a"),
        ("abc", ("abcd",), "abc"),
        ("JOKE: a\nJOKE: b", ("\n", "JOKE: b"), "JOKE: a"),
        ("one END two", ("E", "END"), "one "),
    ],
)
def test_stop_strings_end_the_text_and_are_never_shown(text: str, stop: tuple[str, ...], shown: str) -> None:
    pieces = push_all(Detokenizer(BYTES, stop), text.encode())
    assert "".join(pieces) == shown
    assert all(shown.startswith("".join(pieces[:i])) for i in range(len(pieces)))


def test_scheduler_and_sequences_need_no_torch() -> None:
    code = "import sys, model_service.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0

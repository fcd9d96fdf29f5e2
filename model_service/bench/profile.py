"""`bench profile`: where the time of a step goes, phase by phase, in the int8 kernels: for who makes them faster."""

import time
from collections.abc import Sequence as Seq
from pathlib import Path

from model_service.bench.children import in_child
from model_service.bench.models import open_model
from model_service.bench.report import Report, result
from model_service.bench.session import Session

BATCHES = (1, 8, 32)
CONTEXT = 48  # the middle of `bench decode`
PROMPT = 512
STEPS = 60
PROMPTS = 6
REST = "drawing, Python"


def measure(source: str, session: Session) -> Report:
    """Decode at several batch sizes, and read a prompt. Raises ValueError where the kernels do not run."""
    from model_service.native.library import why_not

    if reason := why_not():
        raise ValueError(f"There is nothing to profile: {reason}.")
    machine = session.machine()
    model = open_model(source, session.cache, session.log)
    prompt = min(PROMPT, model.context_len)
    found = in_child(session.log, "profile.phases", model.folder, BATCHES, min(CONTEXT, model.context_len // 2), prompt)
    works = [f"decode, batch {batch}" for batch in BATCHES] + [f"prompt of {prompt}"]
    names = list(found[0])
    rows = [[name, *(f"{phases[name]:.2f} ms, {share(phases, name):.0%}" for phases in found)] for name in names]
    rows.append(["in all", *(f"{sum(phases.values()):.2f} ms" for phases in found)])
    objects = [
        result("punchline", model.name, "int8", batch, None, None, work=work, phase=name, ms=round(phases[name], 4))
        for batch, work, phases in zip([*BATCHES, 1], works, found, strict=True)
        for name in names
    ]
    title = f"Where a step of {model.name} in int8 goes: milliseconds on the calling thread, means of {STEPS} steps."
    return Report("profile", title, ("phase", *works), rows, objects, (f"Machine: {machine.line}.",))


def share(phases: dict[str, float], name: str) -> float:
    """Return a phase's part of the whole."""
    return phases[name] / sum(phases.values())


def phases(folder: Path, batches: Seq[int], context: int, prompt: int) -> list[dict[str, float]]:
    """Return the milliseconds of each phase of a step: of each batch, then of the prompt. Runs in a child process."""
    from model_service.engine.native_forward import NativeForward
    from model_service.engine.runner import ModelRunner
    from model_service.engine.scheduler import Chunk
    from model_service.engine.sequence import SamplingParams, Sequence
    from model_service.models.loading import open_checkpoint

    forward = NativeForward(open_checkpoint(str(folder)).stored_gpt2(), max(batches))
    runner = ModelRunner(forward)

    def chunk(slot: int, length: int, count: int) -> Chunk:
        sequence = Sequence(slot, [1] * length, SamplingParams(temperature=0), seed=0)
        sequence.slot = slot
        return Chunk(sequence, length - count, length)

    def mean_ms(chunks: list[Chunk], rounds: int) -> dict[str, float]:
        runner.step(chunks)  # memory is taken, caches are as warm as they get
        before, started = forward.seconds(), time.perf_counter()
        for _ in range(rounds):
            runner.step(chunks)
        took = time.perf_counter() - started
        spent = {name: after - before[name] for name, after in forward.seconds().items()}
        spent[REST] = took - sum(spent.values())
        return {name: seconds / rounds * 1e3 for name, seconds in spent.items()}

    decode = [mean_ms([chunk(slot, context, 1) for slot in range(batch)], STEPS) for batch in batches]
    return [*decode, mean_ms([chunk(0, prompt, prompt)], PROMPTS)]

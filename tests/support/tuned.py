"""Fine-tunes as a service tells of them when they have ended: a job, its evaluation, its events. Nothing is trained."""

from typing import Any

from tests.support.fake_service import FakeService, card

Json = dict[str, Any]
COUNTS = {"train": 180, "held_out": 33, "too_long": 0, "duplicates": 0}
SAID = [
    ("Why did the the the dog", "Why did the dog sit in the shade? It was a hot dog."),
    ("A man a man a man walks", "A duck walks into a bank and asks for a bill."),
    ("My wife told me I I", "My wife says I never listen, or something like that."),
    ("What do you call a", "What do you call a fish without eyes? A fsh."),
    ("I I I went to the shop", "I went to the shop for bread and came back with a plan."),
    ("", "The moderator told a joke once. It is still in review."),
    ("Knock knock knock knock", "Knock, knock. Who is there? The update. The update who? Restarting."),
    ("Two cats sat on on", "Two cats sat on a keyboard and shipped it."),
]


def evaluation() -> Json:
    """Figures of a model that learned something, and forgot a little."""
    before = {"loss": 3.5, "bits_per_char": 1.712, "general_loss": 4.1, "general_bits_per_char": 1.9}
    after = {"loss": 3.15, "bits_per_char": 1.541, "general_loss": 4.12, "general_bits_per_char": 1.909}
    return {
        "before": {**before, "distinct_2": 0.71, "verbatim_rate": 0.0, "filter_hits": 2},
        "after": {**after, "distinct_2": 0.834, "verbatim_rate": 0.0625, "filter_hits": 0},
        "num_held_out": 33,
        "num_general": 60,
        "num_samples": 32,
        "prompt": "JOKE:",
        "samples": [{"seed": 7 + i, "before": old, "after": new} for i, (old, new) in enumerate(SAID)],
    }


def events(total_steps: int = 200, best_step: int = 120) -> list[Json]:
    """A run's events, newest first, as the service lists them."""
    told: list[Json] = [{"message": "Created fine-tuning job", "data": None}]
    best = 9.9
    for step in range(0, total_steps + 1, 4):
        if step:
            loss = 2.6 + 1.0 * 0.985**step + 0.05 * (step % 3)
            told.append({"message": f"Step {step}", "data": {"step": step, "train_loss": loss}})
        if step % 20 == 0:
            val_loss = 3.15 + 0.35 * 0.97**step + 0.001 * max(0, step - best_step)
            is_best = step > 0 and val_loss < best
            best = min(best, val_loss) if step else best
            told.append({"message": "Look", "data": {"step": step, "valid_loss": val_loss, "is_best": is_best}})
    return told[::-1]


def end_job(service: FakeService, job_id: str, *, passed: bool = True, base: str = "jokes-mini") -> str:
    """Let a job end well, with a model that the service has; returns the model's name."""
    model = f"ft:{base}:guild:{job_id}"
    reasons = [] if passed else ["The loss on the held-out jokes rose."]
    figures = {"val_loss_before": 3.5, "val_loss_after": 3.15, "counts": COUNTS, "step": 200, "total_steps": 200}
    service.events[job_id] = events()
    service.models.append(card(model))
    service.jobs[job_id].update(
        status="succeeded",
        fine_tuned_model=model,
        punchline={**figures, "gate": {"passed": passed, "reasons": reasons}, "evaluation": evaluation()},
    )
    return model

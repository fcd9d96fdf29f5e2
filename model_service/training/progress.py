"""Tells people how a run goes: progress.json for those who look, an event for those who read later."""

import time
from typing import Any

from model_service.training.folder import JobFolder
from model_service.training.objective import Look

PROGRESS_EVERY_S = 0.5
EVENTS_PER_RUN = 50


class Progress:
    """The progress and the events of one job; it is the loop's Report. silent: another process tells it all."""

    def __init__(self, folder: JobFolder, *, silent: bool = False) -> None:
        self._folder, self._silent = folder, silent
        self._noted = folder.progress
        self._written_at = 0.0
        self._began_at, self._began_step = time.monotonic(), folder.latest_step()

    @property
    def counts(self) -> dict[str, Any]:
        """How many examples are used, and how many are not."""
        return dict(self._noted["counts"])

    def begin(self, message: str, total_steps: int) -> None:
        """Say what is about to be trained, once."""
        if not self._folder.latest_step():
            self.say(message)
        self.write(total_steps=total_steps)
        self._began_at, self._began_step = time.monotonic(), self._folder.latest_step()

    def step(self, step: int, total_steps: int, loss: float, learning_rate: float) -> None:
        """Keep progress.json fresh, and add an event now and then."""
        pace = (time.monotonic() - self._began_at) / max(1, step - self._began_step)
        self._noted |= {"step": step, "loss": loss, "eta_s": round(pace * (total_steps - step), 1)}
        if time.monotonic() - self._written_at > PROGRESS_EVERY_S or step == total_steps:
            self.write()
        if step % max(1, total_steps // EVENTS_PER_RUN) == 0:
            metrics = {"step": step, "total_steps": total_steps, "train_loss": loss, "learning_rate": learning_rate}
            self.say(f"Step {step}/{total_steps}: training loss={loss:.3f}", data=metrics)

    def look(self, look: Look, total_steps: int, is_best: bool) -> None:
        """Note the held-out loss, in the progress and as an event."""
        if look.step == 0:
            self.write(val_loss_before=look.val_loss)
        metrics = {
            "step": look.step,
            "total_steps": total_steps,
            "valid_loss": look.val_loss,
            "general_loss": look.general,
            "is_best": is_best,
            **look.figures,
        }
        also = "".join(f", {name}={value:.3f}" for name, value in look.figures.items())
        note = ", the best so far" if is_best else ""
        message = f"Held-out look at step {look.step}/{total_steps}: loss={look.val_loss:.3f}{also}{note}"
        self.say(message, data=metrics)

    def warn(self, message: str) -> None:
        """Add an event that a person should read."""
        self.say(message, level="warn")

    def say(self, message: str, *, level: str = "info", data: dict[str, Any] | None = None) -> None:
        """Add an event."""
        if not self._silent:
            self._folder.add_event(message, level=level, data=data)

    def write(self, **changes: Any) -> None:
        """Change some of progress.json."""
        self._noted |= changes
        if not self._silent:
            self._folder.write_progress(self._noted)
        self._written_at = time.monotonic()

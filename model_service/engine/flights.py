"""How the engine hands plans to what runs them: one after the other, or several at once, one in each stage.

    engine ── submit(plan) ──> [ in flight, oldest first ] ── collect() ──> results of the oldest
              move, clear      take their place in the same row

What is submitted later finds done whatever was submitted before it, so a sequence's tokens count as computed from then
on, and slots may trade places while others are in flight. No torch here.
"""

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from model_service.engine.scheduler import Copy, Move, Plan

if TYPE_CHECKING:
    from model_service.engine.runner import Result, Runner
    from model_service.models.lora import Adapter


class StageDied(Exception):
    """A part of the model is gone, and its part of all caches with it: no step can follow."""


class Flights(Protocol):
    """What the engine needs to run plans. All but `read_adapter` is called on the engine's thread."""

    @property
    def num_stages(self) -> int:
        """Plans that keep all of it busy."""
        ...

    def submit(self, plan: Plan) -> None:
        """Run a plan behind those that are in flight. Its sequences may change their slots afterwards."""
        ...

    def collect(self) -> "list[Result]":
        """Wait for the oldest plan in flight; its results in any order. Raises what running it raised, or StageDied."""
        ...

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold, behind what is in flight."""
        ...

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken, behind what is in flight."""
        ...

    def read_adapter(self, name: str, folder: Path) -> "Adapter":
        """Read an adapter for sequences to carry. Blocks, on any thread. Raises CheckpointError."""
        ...

    def close(self) -> None:
        """Let go of threads, processes and memory."""
        ...


class InTurn:
    """One plan after the other on a runner: what a model on one device needs."""

    num_stages = 1

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner
        self._submitted: deque[Plan] = deque()

    def submit(self, plan: Plan) -> None:
        """Keep it until it is collected: then it runs."""
        assert not self._submitted, "transfers between slots would overtake it"
        self._submitted.append(plan)

    def collect(self) -> "list[Result]":
        """Run the plan."""
        plan = self._submitted.popleft()
        for transfer in plan.transfers:
            if isinstance(transfer, Copy):
                self._runner.copy(transfer)
            else:
                self._runner.move(transfer)
        return self._runner.step(plan.chunks) if plan.chunks else []

    def move(self, move: Move) -> None:
        """Let two slots exchange what they hold."""
        self._runner.move(move)

    def clear(self, slot: int) -> None:
        """Wipe a slot whose content is broken."""
        self._runner.clear(slot)

    def read_adapter(self, name: str, folder: Path) -> "Adapter":
        """Read an adapter for sequences to carry. Blocks, on any thread. Raises CheckpointError."""
        return self._runner.read_adapter(name, folder)

    def close(self) -> None:
        """There is nothing of its own to let go of."""

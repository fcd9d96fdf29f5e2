"""An engine that does nothing: children that load it start in a moment."""

from model_service.bench.task import Task


class Idle:
    weights = "none"

    def prepare(self, task: Task) -> None:
        if task.batch == 0:
            raise ValueError("nothing to do\nin so many words")

    def run(self, task: Task) -> list[list[int]]:
        print("to the log, not to the results")
        return [[1] * task.new_tokens] * task.batch

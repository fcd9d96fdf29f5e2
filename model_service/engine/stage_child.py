"""The process of a stage: `python -m model_service.engine.stage_child`. Started by stage_process.py."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from model_service.engine.forward import TorchForward
from model_service.engine.stage import StageWorker, serve
from model_service.engine.stage_wire import DropAdapter, HowFar, Part, packed, portable, unpacked
from model_service.models.loading import open_checkpoint


def main(numbers: list[str]) -> None:
    """Load the part that comes on the control pipe, then run it until the inlet ends."""
    inlet, outlet, control = (Connection(int(number)) for number in numbers)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the one before or behind is gone
        if worker := _loaded(control):
            threading.Thread(target=_answer, args=(worker, control), name="control").start()  # ends with its pipe
            serve(worker, lambda: unpacked(inlet.recv()), lambda message: outlet.send(packed(message)))


def _loaded(control: "Connection[Any, Any]") -> StageWorker | None:
    """Load what is asked for, and say so, or why not."""
    part = control.recv()
    try:
        if part.cores:
            os.sched_setaffinity(0, part.cores)
            torch.set_num_threads(len(part.cores))
        worker = _load(part, lambda num_bytes: control.send(HowFar(num_bytes)))
    except BrokenPipeError:
        raise
    except Exception as error:
        control.send(portable(error))
        return None
    control.send(worker.size_bytes)
    return worker


def _load(part: Part, count: Callable[[int], None]) -> StageWorker:
    model = open_checkpoint(part.source).read(part.weights, "cpu", part.layers, count, to_run=True)
    return StageWorker(TorchForward(model, part.num_slots), is_last=model.is_last)


def _answer(worker: StageWorker, control: "Connection[Any, Any]") -> None:
    """Read and drop adapters beside the steps."""
    while True:
        try:
            question = control.recv()
        except (EOFError, OSError):
            return
        if isinstance(question, DropAdapter):
            worker.drop_adapter(question.key)
            continue
        try:
            adapter = worker.read_adapter(question.key, question.name, question.folder)
            control.send(replace(adapter, layers=()))
        except Exception as error:
            control.send(portable(error))


if __name__ == "__main__":
    main(sys.argv[1:])

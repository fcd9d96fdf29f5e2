"""Several processes train one job: `torchrun` starts them, and each takes its share of every step's rows.

    lora   DistributedDataParallel: a whole model in each process, gradients averaged
    full   FSDP2 (`fully_shard`): weights, gradients and the optimizer's state in parts, fetched layer by layer

All processes walk through the same steps and looks; the first one alone writes files. What one of them notices (a wish
to stop, time for a checkpoint) all are told, so that none waits for another that has left.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from model_service.training.recipe import Recipe
from model_service.training.stops import TOO_FEW_GPUS, Interrupted, TrainingFailed

Found = TypeVar("Found")


class Group:
    """The processes of a job. One alone has nobody to talk to."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def from_environment(cls) -> "Group":
        """Join the processes that torchrun started; alone without it. `closing` must follow. Raises TrainingFailed."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if torch.cuda.is_available():
            rank, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if rank == 0 and int(os.environ["LOCAL_WORLD_SIZE"]) > num_gpus:  # torchrun ends the others
                raise TrainingFailed(TOO_FEW_GPUS.format(size, num_gpus), "too_few_devices")
            torch.cuda.set_device(rank)
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), size)

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, num_rows: int) -> tuple[int, int]:
        """Return the first row of this process, and how many each process takes at most."""
        most = -(-num_rows // self.size)
        return self.rank * most, most

    def total(self, value: float) -> float:
        """Add up a number over the processes."""
        return self._reduced([value], dist.ReduceOp.SUM)[0] if self.size > 1 else value

    def agree(self, *wishes: bool) -> list[bool]:
        """Return for each wish whether any of the processes has it."""
        if self.size == 1:
            return list(wishes)
        return [value > 0 for value in self._reduced([float(wish) for wish in wishes], dist.ReduceOp.MAX)]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the others do the same after the first process has done it, and find what it wrote."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Leave together, at the end and where all stop: who destroys the group while another still talks aborts it.

        One that alone has too little memory just goes; the others are ended by torchrun.
        """
        try:
            yield
        except (Interrupted, TrainingFailed) as stop:
            if getattr(stop, "code", "") != "out_of_memory":
                self._close()
            raise
        self._close()

    def _close(self) -> None:
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()

    def _reduced(self, values: list[float], how: Any) -> list[float]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, how)
        return [float(value) for value in tensor.tolist()]


class Passes(nn.Module):
    """What goes through the model goes through this, so that weights that lie in parts are there."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[Any], Found]) -> Found:
        """Do work with the model."""
        return work(self.model)


def passes_of(model: Any, recipe: Recipe, group: Group) -> Any:
    """Prepare a model for the group, in place; returns what its passes are called by, as `Passes.forward` is."""
    passes = Passes(model)
    if group.size == 1:
        return passes
    if recipe.adapter == "lora":
        return nn.parallel.DistributedDataParallel(passes)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (group.size,))
    for layer in model.base_model.h:
        fully_shard(layer, mesh=mesh)
    fully_shard(passes, mesh=mesh)
    return passes


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fetch what lies in parts; every process must call it."""
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


def laid_out_like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """Return a whole tensor as it must lie to go with `pattern`."""
    tensor = tensor.to(pattern.device)
    if isinstance(pattern, DTensor) and tensor.shape == pattern.shape:
        return distribute_tensor(tensor, pattern.device_mesh, pattern.placements)
    return tensor

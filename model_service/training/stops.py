"""Why a run ends before its last step, and the sentences for it. No torch here.

Exception
├── TrainingFailed   it cannot end well, and a restart would meet the same
├── Interrupted      it was asked to stop, and can go on later
└── NotFinite        inside the loop: some number is none
"""


class TrainingFailed(Exception):
    """The job cannot end well, and a restart would meet the same; the message is for people."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


BROKEN_BASE = TrainingFailed(
    "The model it started from gives no finite loss: its own weights are broken. Choose another model.", "broken_base"
)


TOO_LARGE = (
    "There is not enough memory for a single row of this model. Set gradient_checkpointing to true, use the"
    " adapter lora, choose a smaller model, or free memory on the device; the old model is untouched."
)
TOO_LARGE_FOR_ONE = (
    "One of the devices ran out of memory. Choose a smaller batch_size, set gradient_checkpointing to true, or free"
    " memory on it; the old model is untouched."
)
TOO_FEW_GPUS = (
    "training.processes is {}, but the GPUs here are only {}, and each process needs its own. Lower it and start"
    " again; the old model is untouched."
)


class Interrupted(Exception):
    """The run was asked to stop; its newest checkpoint is of this very step, and it can go on later."""


class NotFinite(Exception):
    """Some number of a step is not finite; the message says which."""

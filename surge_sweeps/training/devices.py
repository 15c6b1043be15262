"""Where a run computes: the processor or one GPU, and its data there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.workloads.base import Workload

CPU = torch.device("cpu")


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process.

    Args:
        name: `cpu`, `cuda`, or `auto`: a GPU where torch sees one. local_rank: the process's number on its machine,
            which is the number of its GPU.

    Raises:
        TrainingError: torch sees no GPU, or fewer than there are processes.

    >>> pick_device("cpu", 1)
    device(type='cpu')
    """
    seen = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and seen == 0):
        return CPU
    if seen == 0:
        built = "torch sees no GPU" if torch.version.cuda else "this torch is built without CUDA"
        raise TrainingError(f"{built}.", "Choose --device cpu, or see why on this machine: nvidia-smi.")
    if local_rank >= seen:
        raise TrainingError(
            f"there is no GPU for process {local_rank + 1} of this machine: torch sees {seen}.",
            "Start at most one process for each GPU, or choose --device cpu.",
        )
    return torch.device("cuda", local_rank)


def on_device(workload: Workload, device: torch.device) -> Workload:
    """The workload with its data on a device; itself where that is the processor."""
    return workload if device.type == "cpu" else _Placed(workload, device)


class _Placed:
    """A workload whose data lies on a device; moved once."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self._workload = workload
        self._device = device
        self.name = workload.name
        self.train_inputs = workload.train_inputs.to(device)
        self.train_targets = workload.train_targets.to(device)
        self.eval_inputs = workload.eval_inputs.to(device)
        self.eval_targets = workload.eval_targets.to(device)

    def build_model(self, model: str, generator: torch.Generator) -> nn.Module:
        # Made on the processor, so that a seed gives the same parameters everywhere.
        return self._workload.build_model(model, generator).to(self._device)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._workload.loss(outputs, targets)

"""Where a run computes: the processor or one GPU."""

from __future__ import annotations

import torch

from surge_sweeps.errors import TrainingError

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

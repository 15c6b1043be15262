"""The trainer with a model `narrow` more, an mlp that meets faults in training passes; started by torchrun in tests.

What it meets is told by the environment, all of it in one process alone:
NARROW_RANK: that process. NARROW_AT: the pass at which something happens, namely NARROW_EVENT: `limit`: from then on
memory holds NARROW_LIMIT examples; `fault`: an error; `term`, `kill`: the process is sent that signal; `term-all`:
torchrun is sent TERM, as by an engine.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import torch
from torch import Tensor, nn

from surge_sweeps.training.__main__ import main
from surge_sweeps.training.workloads import digits

EVENT = os.environ.get("NARROW_EVENT", "")
AT = int(os.environ.get("NARROW_AT", "0"))
LIMIT = int(os.environ.get("NARROW_LIMIT", "0"))
IS_HERE = os.environ.get("NARROW_RANK") == os.environ.get("RANK", "0")


class Narrow(nn.Sequential):
    """Counts its training passes, those in which a step is only tried included."""

    passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """One pass."""
        if self.training and IS_HERE:
            Narrow.passes += 1
            if Narrow.passes == AT:
                happen()
            if EVENT == "limit" and Narrow.passes >= AT and len(inputs) > LIMIT:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


def happen() -> None:
    """What happens once."""
    if EVENT == "fault":
        raise ValueError("a fault of this process alone")
    if EVENT == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if EVENT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if EVENT == "term-all":
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(2)  # until torchrun has passed it on


if __name__ == "__main__":
    digits.SPEC.models["narrow"] = {}
    digits.MODELS["narrow"] = lambda: Narrow(*digits._mlp().children())
    sys.exit(main())

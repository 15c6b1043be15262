"""The trainer with a model `narrow` more, an mlp for which memory holds few examples; started by torchrun in tests.

NARROW_LIMIT: examples of a training pass that it holds; NARROW_AFTER: passes before that limit holds; NARROW_RANK: the
only process that it holds in; NARROW_BREAKS: the pass at which that process fails for good.
"""

from __future__ import annotations

import os
import sys

import torch
from torch import Tensor, nn

from surge_sweeps.training.__main__ import main
from surge_sweeps.training.workloads import digits

LIMIT = int(os.environ.get("NARROW_LIMIT", "1000000"))
AFTER = int(os.environ.get("NARROW_AFTER", "0"))
BREAKS = int(os.environ.get("NARROW_BREAKS", "0"))
RANK = os.environ.get("RANK", "0")
IS_HERE = os.environ.get("NARROW_RANK", RANK) == RANK


class Narrow(nn.Sequential):
    """Counts its passes."""

    passes = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """One pass."""
        if self.training and IS_HERE:
            Narrow.passes += 1
            if Narrow.passes == BREAKS:
                raise ValueError("a fault of this process alone")
            if Narrow.passes > AFTER and len(inputs) > LIMIT:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


if __name__ == "__main__":
    digits.MODELS["narrow"] = lambda: Narrow(*digits._mlp().children())
    sys.exit(main())
